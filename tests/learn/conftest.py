"""For tests of the exercises: the learner's folder is a temporary one, and small modules stand in for the engine."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from learners import Done, Learn, environment

from minillm.learn.tasks import Task


@pytest.fixture
def my(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The learner's folder, with nothing in it."""
    folder = tmp_path / "my"
    monkeypatch.setenv("MINILLM_MY", str(folder))
    return folder


@pytest.fixture
def learn(my: Path, tmp_path: Path) -> Learn:
    """``learn("start", "03")`` in some folder, with a learner's folder of its own."""

    def run(*arguments: str) -> Done:
        command = [sys.executable, "-m", "minillm", "learn", *arguments]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", cwd=tmp_path, env=environment(my), timeout=240
        )

    return run


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """``module("shapes", text)``: a module of that name, to be imported and removed again."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(name: str, text: str) -> None:
        ast.parse(text)
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")

    yield write
    for name in set(sys.modules) - before:
        if not name.startswith(("minillm", "torch", "numpy", "rich")):
            del sys.modules[name]


def task_for(target: str, id: str = "3.1") -> Task:
    return Task(id, "03_paged_attention", "a title", target, "TestNothing", ("a", "b", "c"), ())
