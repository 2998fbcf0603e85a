"""A build: something whole for the learner to write from a nearly empty file, and to run the engine on.

It has the face of a `Task`, so that it is started, checked, hinted at and raced like one. But it replaces no function
of the engine's: a seam puts what the learner has written in the place of a part of the engine.
"""

import ast
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from minillm.learn import builds as folders
from minillm.learn.tasks import Mistake, Task


@dataclass(frozen=True)
class Build(Task):
    """One folder of `minillm.learn.builds`. after: the lessons that it builds on, in words. goal: its target's numbers.
    mistakes: what people write, each planted in the answer."""

    folder: Path = Path()
    after: str = ""
    goal: tuple[tuple[str, int], ...] = ()
    settings_of_tests: tuple[tuple[str, str], ...] = ()
    mistakes: tuple[Mistake, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> "Build":
        """What its build.yaml says."""
        import yaml  # here: few commands want to know

        text = (folder / "build.yaml").read_text(encoding="utf-8")
        entry: dict[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return cls(
            id=folder.name.replace("_", ""),
            lesson=folder.name,
            title=entry["title"],
            target="",
            test=entry["test"],
            hints=tuple(hint.rstrip() for hint in entry["hints"]),
            probes=(),
            folder=folder,
            after=entry["after"],
            goal=tuple(entry["target"].items()),
            settings_of_tests=tuple(entry.get("environment", {}).items()),
            mistakes=tuple(Mistake(task=folder.name.replace("_", ""), **one) for one in entry["mistakes"]),
        )

    @property
    def number(self) -> str:
        """Its file is named by it: ``my/build1.py``."""
        return self.id

    @property
    def chapter(self) -> str:
        return "docs/builds.md"

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.settings_of_tests)

    @property
    def target_numbers(self) -> dict[str, int]:
        return dict(self.goal)

    @cached_property
    def contract(self) -> str:
        """The file as it is handed out."""
        text = (self.folder / "contract.py").read_text(encoding="utf-8")
        for name, value in (("id", self.id), *self.goal):
            text = text.replace(f"{{{name}}}", str(value))
        return text

    @cached_property
    def answer(self) -> str:
        """One possible answer."""
        return (self.folder / "answer.py").read_text(encoding="utf-8")

    def answered(self) -> AbstractContextManager[None]:
        """Inside, the engine runs on that."""
        return self.placed(partial(import_module, f"{folders.__name__}.{self.folder.name}.answer"))

    @property
    def names(self) -> list[str]:
        """What the engine calls: classes and functions of the contract, by name."""
        kinds = (ast.ClassDef, ast.FunctionDef)
        return [node.name for node in ast.parse(self.contract).body if isinstance(node, kinds)]

    @property
    def seam(self) -> ModuleType:
        return import_module(f"{folders.__name__}.{self.folder.name}.seam")

    def placed(self, load: Callable[[], ModuleType]) -> AbstractContextManager[None]:
        """Inside, the engine runs on the module that ``load`` gives."""
        return self.seam.placed(load)
