"""The lessons, each a place: what lies in the folder of that lesson, and what the clone holds under its number.

Found by listing folders, read when asked for. Nothing of the engine is imported for it.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from minillm.learn import builds as build_folders
from minillm.learn import lessons as folders
from minillm.learn.build import Build
from minillm.learn.home import clone
from minillm.learn.questions import Question
from minillm.learn.tasks import Mistake, Task


@dataclass(frozen=True)
class Place:
    """All that belongs to one lesson. Its files are described in `minillm.learn.lessons`."""

    number: int
    folder: Path

    @property
    def label(self) -> str:
        """``03``"""
        return f"{self.number:02}"

    @cached_property
    def name(self) -> str:
        """``03_paged_attention``: what its script, its checkpoint and its chapter are called."""
        return f"{self.label}_{self.module().NAME}"

    @property
    def title(self) -> str:
        return self.name[3:].replace("_", " ")

    @property
    def script(self) -> Path:
        return clone() / "lessons" / f"{self.name}.py"

    @property
    def checkpoint(self) -> Path:
        return clone() / "tests" / "checkpoints" / f"test_{self.name}.py"

    @property
    def chapter(self) -> Path:
        return clone() / "docs" / "lessons" / f"{self.name}.md"

    @property
    def run(self) -> Path:
        """Its recorded run."""
        return self.folder / "run.json"

    @property
    def off_before(self) -> dict[str, Any]:
        """Settings that keep off, in the lessons before it, what it turns on."""
        return getattr(self.module(), "OFF_BEFORE", {})

    @property
    def only_measure(self) -> tuple[str, ...]:
        """Functions of its script that only measure."""
        return getattr(self.module(), "ONLY_MEASURE", ())

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(Task.read(self.name, entry) for entry in self._entries("tasks.yaml"))

    @cached_property
    def mistakes(self) -> tuple[Mistake, ...]:
        return tuple(Mistake(**entry) for entry in self._entries("mistakes.yaml"))

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """Their moments, engines and answers are functions of the lesson's moments.py, or of what lessons share."""
        entries = self._entries("questions.yaml")
        shared = vars(import_module("minillm.learn.moments")) if entries else {}
        functions = {**shared, **vars(self.module("moments"))} if entries else {}
        return tuple(Question.read(entry, functions) for entry in entries)

    def module(self, name: str = "") -> ModuleType:
        """A module of its folder; without a name, the folder itself."""
        return import_module(".".join([folders.__name__, self.folder.name, *([name] if name else [])]))

    def _entries(self, name: str) -> list[dict[str, Any]]:
        """A YAML file that is a list; an empty one if the lesson has none of it."""
        import yaml  # here: a lesson's header shall not wait for it

        file = self.folder / name
        if not file.exists():
            return []
        # The loader in C, where it is: with it a learner sees the list of exercises at once.
        return yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or []


@lru_cache(maxsize=1)
def lessons() -> dict[int, Place]:
    """Every lesson by its number, in order."""
    found = [path for home in folders.__path__ for path in Path(home).glob("lesson_[0-9][0-9]")]
    places = [Place(int(path.name[-2:]), path) for path in found if (path / "__init__.py").exists()]
    return {place.number: place for place in sorted(places, key=lambda place: place.number)}


def lesson(number: int) -> Place:
    """ValueError lists what there is."""
    if number not in lessons():
        raise ValueError(f"there is no lesson {number}; there are\n{_listed(list(lessons().values()))}")
    return lessons()[number]


@lru_cache(maxsize=1)
def tasks() -> dict[str, Task]:
    """Every task of every lesson by its id, in order."""
    return {task.id: task for place in lessons().values() for task in place.tasks}


@lru_cache(maxsize=1)
def builds() -> dict[str, Build]:
    """Every build by its id ("build1"), in order."""
    found = [path for home in build_folders.__path__ for path in Path(home).glob("build_[0-9]*")]
    all_of_them = [Build.of(path) for path in sorted(found) if (path / "build.yaml").exists()]
    return {build.id: build for build in all_of_them}


def task(id: str) -> Task:
    """One task or build. ValueError lists all if there is none of that id."""
    known = {**tasks(), **builds()}
    if id not in known:
        listed = "\n".join(f"  {task.id}  {task.title}" for task in known.values())
        raise ValueError(f"there is no exercise {id!r}; there are\n{listed}")
    return known[id]


def lesson_tasks(number: str) -> list[Task]:
    """The tasks of lesson "3" or "03", or the build "build1". ValueError lists the lessons that have any."""
    if number in builds():
        return [builds()[number]]
    found = [task for task in tasks().values() if task.number == number.zfill(2)]
    if not found:
        listed = _listed([place for place in lessons().values() if place.tasks])
        raise ValueError(f"lesson {number!r} has no exercises; these have\n{listed}")
    return found


def choose(wanted: str) -> list[Task]:
    """What "3.1", "03" or "build1" stands for."""
    return [task(wanted)] if "." in wanted else lesson_tasks(wanted)


def _listed(places: list[Place]) -> str:
    return "\n".join(f"  {place.label}  {place.title}" for place in places)
