"""The exercises: what there is to write, which test checks it, and what may be told about it.

The manifest is data, in tasks.yaml beside this file. Nothing of the engine is imported here.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """One function of the engine for the learner to write.

    id: "3.1". lesson: "03_paged_attention". target: ``module:name`` or ``module:Class.name``. test: the class of its
        tests in the lesson's checkpoint. hints: a question, a pointer, the steps. probes: where to watch it run.
        model, settings: an engine that calls the function, for `diff` and `race`.
    """

    id: str
    lesson: str
    title: str
    target: str
    test: str
    hints: tuple[str, ...]
    probes: tuple[str, ...]
    model: str = "nano-llama"
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def number(self) -> str:
        return self.lesson[:2]

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    @property
    def qualname(self) -> str:
        """``PagePool.allocate``, or ``slot_mapping``."""
        return self.target.partition(":")[2]

    @property
    def class_name(self) -> str:
        """The class that it is a method of; "" for a function."""
        return self.qualname.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.qualname.rpartition(".")[2]

    @property
    def checkpoint(self) -> str:
        """The file of its tests, seen from the clone."""
        return f"tests/checkpoints/test_{self.lesson}.py"

    @property
    def chapter(self) -> str:
        return f"docs/lessons/{self.lesson}.md"

    @property
    def file(self) -> str:
        """``minillm/kvcache/pages.py``: where the reference stands."""
        return self.module.replace(".", "/") + ".py"


@lru_cache(maxsize=1)
def tasks() -> dict[str, Task]:
    """Every task by its id, in order."""
    import yaml

    text = Path(__file__).with_name("tasks.yaml").read_text(encoding="utf-8")
    found = [_task(lesson["lesson"], entry) for lesson in yaml.safe_load(text) for entry in lesson["tasks"]]
    return {task.id: task for task in found}


def _task(lesson: str, entry: dict[str, Any]) -> Task:
    hints = tuple(hint.rstrip() for hint in entry.pop("hints"))
    settings = tuple(entry.pop("settings", {}).items())
    return Task(lesson=lesson, hints=hints, probes=tuple(entry.pop("probes")), settings=settings, **entry)


def task(id: str) -> Task:
    """One task. ValueError lists all if there is none of that id."""
    if id not in tasks():
        listed = "\n".join(f"  {task.id}  {task.title}" for task in tasks().values())
        raise ValueError(f"there is no exercise {id!r}; there are\n{listed}")
    return tasks()[id]


def lesson_tasks(number: str) -> list[Task]:
    """The tasks of lesson "3" or "03". ValueError lists the lessons that have any."""
    found = [task for task in tasks().values() if task.number == number.zfill(2)]
    if not found:
        lessons = dict.fromkeys(task.lesson for task in tasks().values())
        listed = "\n".join(f"  {lesson[:2]}  {lesson[3:].replace('_', ' ')}" for lesson in lessons)
        raise ValueError(f"lesson {number!r} has no exercises; these have\n{listed}")
    return found


def choose(wanted: str) -> list[Task]:
    """What "3.1" or "03" stands for."""
    return [task(wanted)] if "." in wanted else lesson_tasks(wanted)
