"""The checkpoints themselves: the engine's own functions pass, fresh stubs skip, and planted mistakes are caught.

All in this process: a class of tests is made, and its methods are called, with some text in the learner's file's place.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import pytest
from tiny import Oracle

from minillm.learn.home import clone
from minillm.learn.mine import functions_of, load
from minillm.learn.registry import lessons, tasks
from minillm.learn.source import Source, definition
from minillm.learn.stub import exercise, is_stub
from minillm.learn.swap import plain_kernels, swapped
from minillm.learn.tasks import Mistake, Task
from minillm.learn.todo import Todo

MISTAKES = [mistake for place in lessons().values() for mistake in place.mistakes]
every_task = pytest.mark.parametrize("task", tasks().values(), ids=lambda task: task.id)


@cache
def checkpoint(task: Task) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"checkpoint_{task.number}", clone() / task.checkpoint)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcomes(task: Task, oracle: Oracle, text: str | None = None) -> Iterator[tuple[str, BaseException | None]]:
    """What came of each of a task's tests. ``text``: a whole function in the place of the engine's own."""
    functions: dict[str, Any] = {}
    tests = getattr(checkpoint(task), task.test)
    names = [name for name in vars(tests) if name.startswith("test_")]
    if text is not None:
        written = exercise([task], {task.id: text})
        functions = functions_of(load(task.number, Source(written, ast.parse(written))), [task])
    with swapped(functions):
        for name in names:
            test = getattr(tests(), name)
            try:
                test(**({"oracle": oracle} if "oracle" in test.__func__.__annotations__ else {}))
                yield name, None
            except (Exception, pytest.fail.Exception) as error:
                yield name, error


@every_task
def test_the_engines_own_function_passes(task: Task, oracle: Oracle) -> None:
    with plain_kernels():
        wrong = {name: error for name, error in outcomes(task, oracle, definition(task)) if error}
    assert not wrong


@every_task
def test_every_test_of_a_fresh_stub_skips(task: Task, oracle: Oracle) -> None:
    """Also those that expect an error: what is still to be written is neither right nor wrong."""
    text = exercise([task])
    assert is_stub(text, task)
    source = Source(text, ast.parse(text))
    (node,) = source.find(task.qualname)
    for name, error in outcomes(task, oracle, source.cut(node)):
        assert isinstance(error, Todo) and error.first().task == task.id, f"{name}: {error!r}"


@every_task
def test_every_task_has_mistakes_and_an_engine_test(task: Task) -> None:
    assert sum(mistake.task == task.id for mistake in MISTAKES) >= 3
    tests = vars(getattr(checkpoint(task), task.test))
    assert any("the_engine" in name for name in tests)


def planted() -> Iterator[Any]:
    """Every mistake; all but the first of each exercise are left to CI."""
    seen = set()
    for mistake in MISTAKES:
        marks = [pytest.mark.ci] if mistake.task in seen else []
        seen.add(mistake.task)
        yield pytest.param(mistake, id=f"{mistake.task}-{mistake.name}", marks=marks)


@pytest.mark.parametrize("mistake", list(planted()))
def test_a_planted_mistake_is_caught(mistake: Mistake, oracle: Oracle, record_property: Any) -> None:
    task = tasks()[mistake.task]
    reference = definition(task)
    assert reference.count(mistake.old) >= 1, f"{task.target} has no {mistake.old!r} any more"
    wrong = reference.replace(mistake.old, mistake.new)
    assert wrong != reference
    for name, error in outcomes(task, oracle, wrong):
        if error is not None:
            said = f"{type(error).__name__}: {error}"
            record_property("caught_by", name)
            assert not isinstance(error, Todo | NameError | SyntaxError), said
            assert mistake.says in said, said
            words = r"token|tensor|plan|page|request|slot|head|number|seat|budget|temperature|top_"
            assert re.search(words, said) or not isinstance(error, AssertionError), said
            return
    raise AssertionError("no test of the exercise notices it")
