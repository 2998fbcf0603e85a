"""The checkpoints themselves: the engine's own functions pass, fresh stubs skip, and planted mistakes are caught.

All in this process: a class of tests is made, and its methods are called, with some text in the learner's file's place.
"""

import ast
import functools
import importlib.util
import linecache
import re
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from judged import NoEnd, judged
from tiny import Oracle

from minillm.learn.home import clone, my_file
from minillm.learn.mine import functions_of, live_class, load
from minillm.learn.registry import lessons, tasks
from minillm.learn.source import Source, definition
from minillm.learn.stub import exercise, is_stub
from minillm.learn.swap import plain_kernels
from minillm.learn.tasks import Mistake, Task
from minillm.learn.todo import Todo

WORDS = r"token|tensor|plan|page|request|slot|head|number|seat|budget|temperature|top_|shape"
MISTAKES = [mistake for place in lessons().values() for mistake in place.mistakes]
every_task = pytest.mark.parametrize("task", tasks().values(), ids=lambda task: task.id)


@cache
def checkpoint(task: Task) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"checkpoint_{task.number}", clone() / task.checkpoint)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcomes(
    task: Task,
    oracle: Oracle,
    text: str | None = None,
    function: Callable[..., Any] | None = None,
    patience: float = 0,
    engine: bool = True,
) -> Iterator[tuple[str, BaseException | None]]:
    """What came of each of a task's tests, with a ``function``, or the ``text`` of one, in the engine's own's place."""
    functions: dict[str, Any] = {task.target: function} if function else {}
    tests = getattr(checkpoint(task), task.test)
    names = [name for name in vars(tests) if name.startswith("test_") and (engine or "the_engine" not in name)]
    if text is not None:
        written, path = exercise([task], {task.id: text}), str(my_file(task.number))
        functions = functions_of(load(task.number, Source(written, ast.parse(written))), [task])
        linecache.cache[path] = len(written), None, written.splitlines(keepends=True), path  # no file has these lines
    for name in names:
        test = getattr(tests(), name)
        try:
            with judged(task, functions, patience):
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


def spoilt(value: Any, how: str) -> Any:
    """An answer of the right kind, with the shape or the numbers' type of another."""
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(spoilt(one, how) for one in value)
    if isinstance(value, torch.Tensor):
        return {"shape": value[..., None], "turned": value.flatten()[:1], "dtype": value.double() + 0.25}[how]
    if isinstance(value, np.ndarray):
        return {"shape": value[..., None], "turned": value.flatten()[:1], "dtype": value + 0.25}[how]
    if isinstance(value, list):
        return {"shape": [value], "turned": [*value, *value, 0], "dtype": [str(one) for one in value]}[how]
    return {"shape": [value], "turned": [], "dtype": str(value).encode()}[how]


def answers(task: Task) -> dict[str, Callable[..., Any]]:
    """Functions that give what nobody can use, or none at all."""
    home: Any = live_class(task) if task.class_name else importlib.import_module(task.module)
    real = vars(home)[task.name]

    def raising(*_: Any, **__: Any) -> None:
        raise NotImplementedError

    made: dict[str, Callable[..., Any]] = {"None": lambda *_, **__: None, "a word": lambda *_, **__: "a word"}
    made["an error"] = raising
    for how in ("shape", "turned", "dtype"):
        made[how] = lambda *given, how=how, **named: spoilt(real(*given, **named), how)
    return {name: functools.wraps(real)(function) for name, function in made.items()}


def says_it_in_its_terms(task: Task, error: BaseException) -> bool:
    """The message is a test's own or names the function; and no test broke on the answer."""
    said = str(error)
    own = task.qualname in said or re.search(WORDS, said)
    return isinstance(error, AssertionError) and bool(own) and "the test could not go on" not in said


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["None", "a word", "an error", "shape", "turned", "dtype"])
@every_task
def test_an_answer_of_the_wrong_kind_is_told_as_that(task: Task, kind: str, oracle: Oracle) -> None:
    if kind not in ("None", "an error") and "-> None" in definition(task):
        return  # nobody looks at what it gives
    through = outcomes(task, oracle, function=answers(task)[kind], patience=3, engine=kind in ("None", "shape"))
    found = [(name, error) for name, error in through if error]
    assert found, f"nothing notices that {task.qualname} gives {kind}"
    for name, error in found:
        assert says_it_in_its_terms(task, error), f"{name}: {type(error).__name__}: {error}"


@every_task
def test_every_task_has_mistakes_and_an_engine_test(task: Task) -> None:
    assert sum(mistake.task == task.id for mistake in MISTAKES) >= 5
    assert any(mistake.task.split(".")[0] == task.id.split(".")[0] and mistake.hangs for mistake in MISTAKES)
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
    for name, error in outcomes(task, oracle, wrong, patience=2 if mistake.hangs else 60):
        if error is not None:
            said = f"{type(error).__name__}: {error}"
            record_property("caught_by", name)
            assert not isinstance(error, Todo) and "NameError" not in said, said
            assert mistake.says in said, said
            assert isinstance(error, NoEnd) == mistake.hangs, said
            assert says_it_in_its_terms(task, error), said
            return
    raise AssertionError("no test of the exercise notices it")
