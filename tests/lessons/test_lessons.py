"""Every lesson as a learner runs it: in a process of its own, to its end, at several widths, and with its options."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from minillm.debug.catalogue import catalogue

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))
INTERPRETS = find_spec("triton") is not None and not torch.cuda.is_available()  # else no kernel is run in Python
Done = subprocess.CompletedProcess[str]

# Python runs this before the lesson, whose own file stays as it is. It notes which probes come by, and prints all that
# the lesson prints on two more consoles, one narrow, one wide.
BEFORE = """
import atexit, os, pathlib
from rich.console import Console
from minillm.probe import listen
from minillm.debug.views.theme import make_console

folder, seen, real_print = pathlib.Path(__file__).parent, set(), Console.print
listen("*", lambda event: seen.add(event.name))
atexit.register(lambda: (folder / "seen.txt").write_text(" ".join(sorted(seen))))
others = [make_console(True, width, file=open(folder / f"{width}.txt", "w")) for width in (40, 120)]

def print_everywhere(console, *objects, **options):
    for one in (console, *others):
        real_print(one, *objects, **options)

Console.print = print_everywhere
"""

each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
one_lesson = pytest.mark.parametrize("lesson", LESSONS[3:4], ids=lambda path: path.stem)


def environment(columns: int, **more: str) -> dict[str, str]:
    """Ours, without what would arm a breakpoint; one thread, so that the tests do not get in each other's way."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINILLM_")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "COLUMNS": str(columns), **more}


@pytest.fixture
def run() -> Callable[..., Done]:
    """``run(lesson, "--plain", columns=80)``: to the end, with no keyboard."""

    def to_the_end(lesson: Path, *arguments: str, columns: int = 80, **variables: str) -> Done:
        return subprocess.run(
            [sys.executable, str(lesson), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            env=environment(columns, **variables),
            timeout=240,
        )

    return to_the_end


def number(lesson: Path) -> int:
    return int(lesson.stem[:2])


def widest(text: str) -> str:
    return max(text.splitlines(), key=len)


@each_lesson
def test_runs_to_its_end_and_meets_its_probes(lesson: Path, run: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BEFORE)
    path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = run(lesson, "--plain", PYTHONPATH=os.pathsep.join(path))
    assert done.returncode == 0 and done.stderr == "", done.stderr
    narrow, wide = ((tmp_path / f"{width}.txt").read_text() for width in (40, 120))
    for text, width in ((narrow, 40), (done.stdout, 80), (wide, 120)):
        assert text.isascii() and "\x1b" not in text
        assert len(widest(text)) <= width, widest(text)
        assert f"Lesson {number(lesson):02}" in text and "Try next" in text
    found = re.findall(r"both times:\s+(\w+)|without:\s+(\w+)", wide)
    assert {word for pair in found for word in pair if word} <= {"True"} and "nan" not in wide.split()
    meets_its_probes(number(lesson), set((tmp_path / "seen.txt").read_text().split()))


def meets_its_probes(lesson: int, reached: set[str]) -> None:
    """The catalogue names, for each probe, the first lesson that comes by."""
    first = {name: probe.lesson for name, probe in catalogue().items()}
    assert reached <= set(first)
    stays_away = {name for name, probe in catalogue().items() if probe.interpreted and not INTERPRETS}
    assert {name for name in first if first[name] == lesson} <= reached | stays_away, "its own lesson does not come by"
    early = {name for name in reached if first[name] is None or first[name] > lesson}
    assert not early, "this lesson comes by, the catalogue names a later one"


@pytest.mark.ci
@each_lesson
def test_other_widths_questions_and_log_points(lesson: Path, run: Callable[..., Done]) -> None:
    """A pipe that is no terminal, wide; a question of one's own; a line for each page that is taken."""
    asked = "What is a page table, and who reads it?"
    done = run(lesson, "--prompt", asked, "--log", "kv.allocate", columns=120)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and len(widest(done.stdout)) <= 120, widest(done.stdout)
    lines = done.stderr.splitlines()
    assert lines and all(re.match(r"step \d+ +kv\.allocate +request=r\d+ +pages=", line) for line in lines)


@one_lesson
def test_a_reader_that_leaves_is_no_error(lesson: Path) -> None:
    """``python lessons/01_first_token.py | head -1``."""
    command = [sys.executable, "-u", str(lesson), "--plain"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(80), encoding="utf-8", **pipes) as process:
        assert "Lesson" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=240) == 0
        assert process.stderr.read() == ""


@one_lesson
@pytest.mark.parametrize("option", ["--break", "--log"])
def test_an_unknown_probe(lesson: Path, option: str, run: Callable[..., Done]) -> None:
    done = run(lesson, option, "nothing.here")
    assert done.returncode == 2
    assert "no probe is called 'nothing.here'" in done.stderr and "Traceback" not in done.stderr
    assert all(name in done.stderr for name in catalogue())


@one_lesson
def test_a_broken_condition(lesson: Path, run: Callable[..., Done]) -> None:
    done = run(lesson, "--break", "scheduler.admit", "--break-when", "request.id ==")
    assert done.returncode == 2
    assert "the condition is no Python expression" in done.stderr and "Traceback" not in done.stderr


@one_lesson
def test_a_model_that_is_not_there(lesson: Path, run: Callable[..., Done]) -> None:
    done = run(lesson, "--model", "/no/such/model")
    assert done.returncode == 2
    assert "/no/such/model" in done.stderr and "Traceback" not in done.stderr


@each_lesson
def test_names_its_stops(lesson: Path) -> None:
    """What a lesson's header offers to stop at exists, and the end names a stop and a condition."""
    text = lesson.read_text(encoding="utf-8")
    offered = re.search(r'breaks="([^"]+)"', text)
    assert offered and set(offered[1].split(",")) <= set(catalogue())
    named = [name for found in re.findall(r"--break ([\w.,]+)", text) for name in found.rstrip(".").split(",")]
    assert set(named) <= set(catalogue())
