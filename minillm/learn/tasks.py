"""An exercise: what there is to write, which test checks it, what may be told about it; and mistakes made in it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """One function of the engine for the learner to write.

    id: "3.1". lesson: "03_paged_attention". target: ``module:name`` or ``module:Class.name``. test: the class of its
        tests in the lesson's checkpoint. hints: a question, a pointer, the steps. probes: where to watch it run.
        model, settings: an engine that calls the function, for `diff` and `race`. A model that is to be made first is
        ``module:function``, the module seen from the lesson's folder. at_hand: what of the engine the body may use, as
        it is written, and what that is; the stub lists it.
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
    at_hand: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, lesson: str, entry: dict[str, Any]) -> "Task":
        """An entry of tasks.yaml."""
        given = {"model": "nano-llama", **entry, "lesson": lesson, "probes": tuple(entry["probes"])}
        given["hints"] = tuple(hint.rstrip() for hint in entry["hints"])
        for name in ("settings", "at_hand"):
            given[name] = tuple(entry.get(name, {}).items())
        if ":" in given["model"]:
            given["model"] = f"minillm.learn.lessons.lesson_{lesson[:2]}.{given['model']}"
        return cls(**given)

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
    def environment(self) -> dict[str, str]:
        """Variables that must be set where its tests run."""
        return {}

    @property
    def file(self) -> str:
        """``minillm/kvcache/pages.py``: where the reference stands."""
        return self.module.replace(".", "/") + ".py"


@dataclass(frozen=True)
class Mistake:
    """A mistake that people make: in the engine's own function of a task, ``old`` becomes ``new``. One of the task's
    tests then fails, and ``says`` is a part of what the learner reads. hangs: the test would never end; it is stopped,
    and the line that ran is told."""

    task: str
    name: str
    old: str
    new: str
    says: str
    hangs: bool = False
