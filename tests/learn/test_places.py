"""A lesson is a place: each is whole, and a new one is there for every command as soon as its folder is."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from minillm.debug.launch import read_jsonc
from minillm.learn.registry import lesson, lessons

ROOT = Path(__file__).resolve().parents[2]
FILES = ("__init__.py", "learner.py", "mistakes.yaml", "moments.py", "questions.yaml", "run.json", "tasks.yaml")
FOUND = {  # by its number: what a lesson has beside its folder
    "script": "lessons/[0-9][0-9]_*.py",
    "checkpoint": "tests/checkpoints/test_[0-9][0-9]_*.py",
    "chapter": "docs/lessons/[0-9][0-9]_*.md",
}


def found(root: Path, pattern: str) -> dict[int, Path]:
    """Number -> file; a page's translation (page.zh.md) is the same lesson's."""
    return {int(re.findall(r"\d\d", path.name)[0]): path for path in sorted(root.glob(pattern), reverse=True)}


def lacking(root: Path, number: int) -> list[str]:
    """What lists lessons for a reader, and does not list this one. Nothing but these has to be told of a new lesson."""
    label, script = f"{number:02}", found(root, FOUND["script"])[number]
    launch = read_jsonc((root / ".vscode" / "launch.json").read_text(encoding="utf-8"))
    nav = re.findall(r"lessons (\d+)-(\d+)$", (root / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    named = {
        ".vscode/launch.json: a configuration": any(
            str(one.get("program")).endswith(f"/lessons/{script.name}") for one in launch["configurations"]
        ),
        f"README.md: a row `lesson {label}`": f"| `lesson {label}` |"
        in (root / "README.md").read_text(encoding="utf-8"),
        "mkdocs.yml: a range of lessons with it": any(int(first) <= number <= int(last) for first, last in nav),
        **{
            f"docs/{page}.md: a link": f"(lessons/{script.stem}.md)"
            in (root / "docs" / f"{page}.md").read_text(encoding="utf-8")
            for page in ("index", "study")
        },
    }
    return [what for what, is_there in named.items() if not is_there]


@pytest.mark.parametrize("number", {*lessons(), *(n for pattern in FOUND.values() for n in found(ROOT, pattern))})
def test_a_lesson_is_whole(number: int) -> None:
    """Its folder, script, checkpoint and chapter are there and have one name; who lists lessons lists it."""
    place = lesson(number)
    assert {path.name for path in place.folder.iterdir()} >= set(FILES)
    for what, pattern in FOUND.items():
        assert getattr(place, what) == found(ROOT, pattern).get(number), f"lesson {place.label} has no {what} {pattern}"
    assert {task.id.partition(".")[0] for task in place.tasks} == {str(number)}
    assert {mistake.task for mistake in place.mistakes} == {task.id for task in place.tasks}
    assert not lacking(ROOT, number), "not listed yet"


def test_an_unknown_lesson_is_told_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="there is no lesson 77; there are\n  01  first token\n  02  kv cache\n"):
        lesson(77)


NEW = {  # a whole lesson, by file
    "minillm/learn/lessons/lesson_98/__init__.py": 'NAME = "giving_back"\n',
    "minillm/learn/lessons/lesson_98/moments.py": """
def one_came(event, scheduler):
    return {"count": event.request.num_pending}
""",
    "minillm/learn/lessons/lesson_98/questions.yaml": """
- name: prompt
  ask: [request.add, one_came]
  check: [scheduler.plan, tokens_of_step]
  kind: number
  text: A prompt of {count} tokens is there. How many does the first step compute?
  hint: All.
  why: Nothing of it was computed before.
""",
    "minillm/learn/lessons/lesson_98/tasks.yaml": """
- id: "98.1"
  title: giving pages back
  target: minillm.kvcache.pages:PagePool.free
  test: TestFree
  probes: [kv.free]
  hints: [Who has it?, Count., 1. Count.]
""",
    "minillm/learn/lessons/lesson_98/mistakes.yaml": yaml.dump(
        [
            {
                "task": "98.1",
                "name": f"free {count}",
                "old": "in pages",
                "new": f"in [*pages][:{count}]",
                "says": f"{3 if count else 2} pages are",
            }
            for count in (-1, 0, 1)
        ]
    ),
    "lessons/98_giving_back.py": '''
"""Lesson 98: giving back."""

from minillm.learn.lesson import Lesson

lesson = Lesson(98, "Giving back", turns_on="nothing", buys="pages", breaks="kv.free")

from minillm.learn.asking import ask, finish


def main():
    lesson.part("All of it")
    engine = lesson.llm(num_pages=16, max_model_len=128).engine
    ask(engine, [5, 6, 7], 2)
    finish(engine)
    lesson.end("another one")


if __name__ == "__main__":
    lesson.run(main)
''',
    "tests/checkpoints/test_98_giving_back.py": """
from minillm.kvcache.pages import PagePool


class TestFree:
    def test_the_engine_has_all_pages_again(self):
        pool = PagePool(4, 4)
        pool.free(pool.allocate(2))
        assert pool.num_free == 4, f"{pool.num_free} pages are free, and 4 is right"
""",
    "docs/lessons/98_giving_back.md": "# 98\n",
}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of this clone as far as lessons need it, and the new lesson in it: nothing that was there is changed."""
    root = tmp_path / "clone"
    skip = shutil.ignore_patterns("__pycache__", "nano-moe")
    for folder in ("minillm", "lessons", "tests", "docs/lessons"):
        shutil.copytree(ROOT / folder, root / folder, ignore=skip)
    for name in (".vscode/launch.json", "README.md", "mkdocs.yml", "docs/index.md", "docs/study.md", "pyproject.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for name, text in NEW.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text.lstrip(), encoding="utf-8")
    return root


def run(clone: Path, *arguments: str, typed: str = "") -> str:
    """``python -m`` in that clone: what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINILLM_")}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        input=typed, capture_output=True, encoding="utf-8", cwd=clone, timeout=240,
        env={**kept, "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    return done.stdout + done.stderr


def test_a_new_lesson_is_a_folder_and_no_list_is_changed(clone: Path) -> None:
    assert "98  Lesson 98: giving back." in run(clone, "minillm", "lesson")
    assert re.search(r"98  giving back\n +98\.1  giving pages back", run(clone, "minillm", "learn"))
    said = run(clone, "minillm", "lesson", "98", "--plain", "--quiz", typed="3\n")
    assert "A prompt of 3 tokens is there" in said and "Right: 3. Nothing of it" in said and "Quiz: 1 of 1" in said
    assert "my/ex98.py is there: 1 of the engine's functions" in run(clone, "minillm", "learn", "start", "98")
    assert "○ the engine has all pages again" in run(clone, "minillm", "learn", "check", "98")
    assert [what.partition(":")[0] for what in lacking(clone, 98)] == [
        ".vscode/launch.json", "README.md", "mkdocs.yml", "docs/index.md", "docs/study.md"
    ]  # fmt: skip


@pytest.mark.ci
def test_the_proofs_of_the_exercises_take_a_new_lesson_in(clone: Path) -> None:
    options = ("-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", "-k")
    chosen = "98.1 and not wrong_kind and not has_mistakes"  # which ask more of a lesson than this one has
    said = run(clone, "pytest", "tests/checkpoints/test_checkpoints.py", *options, chosen)
    assert " 5 passed, " in said, said  # the engine's own, a stub, three mistakes
