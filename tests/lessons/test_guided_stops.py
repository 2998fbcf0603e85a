"""Every table of a chapter's guided stops, typed as it stands there: each value is the one that the chapter shows."""

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from lessons.test_lessons import environment

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "docs" / "lessons").glob("[0-9][0-9]_*.md"))
NUMBERS = re.compile(r"-?\d+(?:\.\d*)?|None|True|False")


class Row(NamedTuple):
    """A line of a table: what is typed, the value beside it ("" if it is told in words), and what must be true."""

    typed: str
    shown: str
    true: list[str]


class Stop(NamedTuple):
    """A command and the table below it."""

    chapter: str
    command: str
    rows: list[Row]


def stops_of(path: Path) -> list[Stop]:
    """Each command of the chapter's guided stops, with its table."""
    found = []
    for section in re.findall(r"^### A guided stop.*?(?=^##|\Z)", path.read_text(encoding="utf-8"), re.M | re.S):
        for command, text in re.findall(r"```bash\n(.*?)\n```(.*?)(?=```bash|<details>|\Z)", section, re.S):
            lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
            found.append(Stop(path.stem, command, [row_of(*cells) for cells in lines]))
    return found


def row_of(typed: str, shown: str, true: str) -> Row:
    values = [
        text for text in re.findall("`([^`]+)`", shown) if re.fullmatch(r"(tensor|None|True|False|[][(),.\d -])+", text)
    ]
    return Row(typed.strip(" `"), values[0] if values else "", re.findall("`([^`]*(?:==| is )[^`]*)`", true))


def agree(printed: str, shown: str) -> bool:
    """Whether a value says what the chapter shows of it, without the words and brackets around: ``tensor([10.0])`` and
    ``10`` are the same. A chapter may leave out what comes later, and shows as many digits as it likes."""
    got, wanted = NUMBERS.findall(printed), NUMBERS.findall(shown)
    return 0 < len(wanted) <= len(got) and all(_same(*pair) for pair in zip(got, wanted))


def _same(got: str, wanted: str) -> bool:
    if not (wanted[-1].isdigit() or wanted[-1] == "."):
        return got == wanted
    if not (got[-1].isdigit() or got[-1] == "."):
        return False
    return abs(float(got) - float(wanted)) <= 1.01 * 10.0 ** -len(wanted.partition(".")[2]) * ("." in wanted)


STOPS = [stop for path in CHAPTERS for stop in stops_of(path)]


def test_every_chapter_has_one() -> None:
    assert {stop.chapter for stop in STOPS} == {path.stem for path in CHAPTERS}
    for stop in STOPS:
        assert any(row.shown for row in stop.rows), stop.command
        assert stop.command.startswith(f"python3 scripts/start.py lesson {stop.chapter[:2]} --break ")


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(
            s, id=f"{s.chapter}-{shlex.split(s.command)[5]}", marks=[] if s.chapter[:2] == "03" else [pytest.mark.ci]
        )
        for s in STOPS
    ],
)
def test_it_shows_what_the_chapter_says(stop: Stop) -> None:
    """One run: the table is typed into pdb, and after each line what must be true there."""
    hidden = {}
    if "kernel." in stop.command:
        if find_spec("triton") is None:
            pytest.skip("triton is not installed")
        hidden = {"CUDA_VISIBLE_DEVICES": ""}  # as the chapter says: else the kernel is compiled
    typed = [command for row in stop.rows for command in (row.typed, *(f"p bool({one})" for one in row.true))]
    lesson = next((ROOT / "lessons").glob(f"{stop.chapter}.py"))
    done = subprocess.run(
        [sys.executable, str(lesson), "--plain", *shlex.split(stop.command)[4:]],
        input="\n".join([*typed, "q"]) + "\n", capture_output=True, encoding="utf-8", timeout=240,
        env=environment(80, **hidden),
    )  # fmt: skip
    # A lesson that makes an eager engine first is told that a recording never comes by in that one.
    said = [line for line in done.stderr.splitlines() if "will not come by in this engine" not in line]
    assert done.returncode == 0 and not said, done.stderr
    answers = dict(enumerate(done.stdout.split("(Pdb) ")[1:]))
    assert len(answers) == len(typed) + 1, done.stdout
    at = 0
    for row in stop.rows:
        assert "***" not in answers[at], (row.typed, answers[at])
        assert not row.shown or agree(answers[at], row.shown), (row, answers[at])
        for offset, expression in enumerate(row.true, 1):
            assert answers[at + offset].strip() == "True", (expression, answers[at + offset])
        at += 1 + len(row.true)
