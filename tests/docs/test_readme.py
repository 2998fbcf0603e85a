"""Where a newcomer begins: the README leads from lesson 01 to its chapter, its quiz and its exercise, and names what is
to come; the plans fit the lessons that there are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from pages.clone import lesson_files  # noqa: E402

from minillm.learn.registry import lesson, lessons  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
STUDY = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
NUMBERS = range(1, 25)  # the curriculum's


@pytest.mark.parametrize("page", [README, INDEX], ids=["README", "index"])
def test_lesson_01_comes_first(page: str) -> None:
    assert re.findall(r"```bash\n(.*)", page)[0] == "python3 scripts/start.py lesson 01"


def test_the_readme_leads_from_one_thing_to_the_next() -> None:
    way = (
        "python3 scripts/start.py lesson 01", "(docs/lessons/01_first_token.md)", "lesson 01 --quiz",
        "start.py setup dev", "source .venv/bin/activate", "learn start 01", "learn check 1.1", "(docs/study.md)",
        "python3 scripts/start.py lesson 03", "mkdocs serve", "| `lesson 01` |", "python3 scripts/start.py test\n",
    )  # fmt: skip
    places = [README.find(step) for step in way]
    assert -1 not in places and places == sorted(places)
    assert README.count("\n", 0, README.index("(docs/study.md)")) < 50, "on the first two screens"


def numbers_in(text: str) -> set[int]:
    """``12, 13 to 16 and 18`` -> 12, 13, 14, 15, 16, 18; words in brackets are not looked at."""
    plain = re.sub(r"\([^)]*\)", "", text)
    found: set[int] = set()
    for first, last in re.findall(r"\b(\d\d)(?: to (\d\d))?\b", plain):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def test_numbers_that_are_missing_are_explained() -> None:
    missing = set(NUMBERS) - {int(number) for number in lesson_files()}
    said = README.partition("To come are ")[2].partition("\n\n")[0]
    assert numbers_in(said) == missing
    rows = [row for row in STUDY.splitlines() if row.startswith("|") and row.endswith("| to come |")]
    assert numbers_in(" ".join(row.split("|")[2].partition(":")[0] for row in rows)) == missing


def test_the_plans_name_all_tasks_of_a_lesson() -> None:
    named = re.findall(r"\b(\d+)\.1\b(?: (?:to|and) \1\.(\d+))?", STUDY)
    last: dict[int, int] = {}
    for number, end in named:
        last[int(number)] = max(last.get(int(number), 1), int(end or 1))
    for number, end in last.items():
        assert len(lesson(number).tasks) == end, f"docs/study.md: tasks of lesson {number:02}"
    assert len(last) >= 12


def test_a_weekend_is_long_enough() -> None:
    """Half a chapter an hour, says the same page."""
    plan = STUDY.partition("## A weekend\n")[2].partition("## A month")[0]
    hours = {"eight": 8, "ten": 10, "twelve": 12, "fourteen": 14}[re.findall(r"About (\w+) hours", plan)[0]]
    assert "Half a chapter in an hour is normal" in STUDY
    chapters = set(re.findall(r"\(lessons/(\d\d)_", plan))
    assert 2 * len(chapters) <= hours
    assert (
        f"lessons {min(chapters)} to {max(chapters)}" in plan and f"lessons {min(chapters)} to {max(chapters)}" in INDEX
    )
    assert {int(number) for number in chapters} <= set(lessons())


def test_without_the_packages_the_command_says_what_to_do() -> None:
    """-S: a Python that sees no installed package, as one outside of the environment does."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "minillm", "generate", "Hi"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert sys.executable in done.stderr and "python3 scripts/start.py setup" in done.stderr
