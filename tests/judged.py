"""What a learner's function gives, and how it goes wrong, in the exercise's own terms.

A wrong answer can do worse than fail a test. It may be no array at all, and the test itself breaks on it; or the engine
goes on with it, and something quite different breaks. So each answer is looked at as it comes, and an error that is
none of a test's own is told as what the function did: a message names the function, what it gave and what is right.
"""

import ast
import functools
import importlib
import linecache
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import numpy as np
import pytest
import torch

from minillm.learn.home import clone, my_file
from minillm.learn.mine import MineError, live_class
from minillm.learn.source import definition
from minillm.learn.swap import swapped
from minillm.learn.tasks import Task
from minillm.learn.todo import Todo

TESTS = Path(__file__).parent
# In words what an annotation asks for; any other class is asked for by its name.
WORDS = {"ndarray": "an array (np.ndarray)", "Tensor": "a tensor (torch.Tensor)", "int": "an int", "None": "None"}


class WrongKind(AssertionError):
    """An answer of the wrong kind: None, a list where an array was asked for."""


class NoEnd(AssertionError):
    """A test that was stopped, with the line that ran."""


class StillRunning(BaseException):
    """A test was stopped. No ``except Exception`` of a learner's may swallow it."""


def described(value: Any) -> str:
    """A value as a message shows it: arrays and tensors by their shape, the rest as it is written, if that is short."""
    if isinstance(value, np.ndarray | torch.Tensor):
        kind = "a tensor" if isinstance(value, torch.Tensor) else "an array"
        return f"{kind} of the shape {list(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, list | tuple) and any(isinstance(one, np.ndarray | torch.Tensor) for one in value):
        return f"a {type(value).__name__} of {len(value)}: {'; '.join(map(described, value[:4]))}"
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
    return shown if value is None or isinstance(value, bool) else f"{shown}, which is of type {type(value).__name__}"


def fits(value: Any, wanted: ast.expr) -> bool:
    """Whether a value is of the kind that an annotation says. What is harmlessly equal fits too: numpy's ints, a list
    for a tuple of several results."""
    match wanted:
        case ast.BinOp(left, ast.BitOr(), right):
            return fits(value, left) or fits(value, right)
        case ast.Constant(None):
            return value is None
        case ast.Constant(str(text)):
            return fits(value, ast.parse(text, mode="eval").body)
        case ast.Subscript(ast.Name("tuple"), ast.Tuple(parts)):
            several = isinstance(value, tuple | list) and len(value) == len(parts)
            return several and all(map(fits, value, parts))
        case ast.Subscript(ast.Name("list"), part):
            return isinstance(value, list) and all(fits(one, part) for one in value)
        case ast.Subscript(home, _):
            return fits(value, home)
        case ast.Attribute(_, name) | ast.Name(name):
            return _is_a(value, name)
    return True


def _is_a(value: Any, name: str) -> bool:
    if name == "bool":
        return isinstance(value, bool | np.bool_)
    if name == "int":
        return isinstance(value, int | np.integer) and not isinstance(value, bool)
    if name == "float":
        return isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return any(kind.__name__ == name for kind in type(value).__mro__)


def in_words(wanted: ast.expr) -> str:
    """``an array (np.ndarray)``, ``list[int]``"""
    name = ast.unparse(wanted).rpartition(".")[2]
    return WORDS.get(name, ast.unparse(wanted))


class Judged:
    """A task's function, each of whose answers is looked at. last: the last one, in words; raised: what it raised."""

    def __init__(self, task: Task) -> None:
        self.task, self.last = task, ""
        self.raised: Exception | None = None
        node = ast.parse("class _:\n" + definition(task) if task.class_name else definition(task)).body[0]
        nodes = node.body if isinstance(node, ast.ClassDef) else [node]
        self.wanted = next((one.returns for one in nodes if isinstance(one, ast.FunctionDef)), None)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def judging(*arguments: Any, **named: Any) -> Any:
            came_in = [one.dtype for one in arguments if isinstance(one, torch.Tensor) and one.is_floating_point()]
            try:
                result = function(*arguments, **named)
            except Exception as error:
                self.raised = error
                raise
            if self.wanted is not None and ast.unparse(self.wanted) != "None":  # else nobody looks at what it gives
                self.last = described(result)
                self.look(result, came_in)
            return result

        return judging

    def look(self, result: Any, came_in: list[torch.dtype]) -> None:
        """WrongKind unless the answer is of the kind that is asked for, and as precise as the first tensor given."""
        if self.wanted is not None and not fits(result, self.wanted):
            raise WrongKind(f"{self.task.qualname} gave {self.last}, and {in_words(self.wanted)} is right")
        for one in result if isinstance(result, tuple) else [result]:
            if isinstance(one, torch.Tensor) and one.is_floating_point() and came_in and one.dtype != came_in[0]:
                right = str(came_in[0]).removeprefix("torch.")
                raise WrongKind(f"{self.task.qualname} gave {described(one)}; {right}, as what came in, is right")


@contextmanager
def judged(task: Task, functions: dict[str, Any] | None = None, patience: float = 0) -> Iterator[None]:
    """Inside, the task's function is looked at, and what goes wrong with it is an AssertionError that says so.

    functions: what to put in the engine's place (None: they are there already). patience: seconds after which what
    runs is stopped, 0 for never.
    """
    judge = Judged(task)
    with swapped(functions or {}):
        home: Any = live_class(task) if task.class_name else importlib.import_module(task.module)
        function = vars(home)[task.name]
        looked_at = {task.target: judge.around(function)} if isinstance(function, FunctionType) else {}
        with swapped(looked_at):
            try:
                with stopped(patience, task):
                    yield
            except WrongKind as error:  # the learner need not read its name
                raise AssertionError(str(error)).with_traceback(error.__traceback__) from None
            except (Todo, MineError, pytest.skip.Exception, pytest.fail.Exception, NoEnd):
                raise
            except Exception as error:
                if _says_itself(error):
                    raise
                raise AssertionError(told(error, judge)).with_traceback(error.__traceback__) from None


def _says_itself(error: Exception) -> bool:
    """Whether a test's own assertion failed, with its message."""
    frames = traceback.extract_tb(error.__traceback__)
    own = bool(frames) and Path(frames[-1].filename).is_relative_to(TESTS)
    return isinstance(error, AssertionError) and bool(str(error)) and own


def told(error: Exception, judge: Judged) -> str:
    """What broke, as something that the learner's function did."""
    name = judge.task.qualname
    frames = traceback.extract_tb(error.__traceback__)
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    if error is judge.raised:
        return f"{name} raised {what}{_where(frames[-1])}"
    gave = f" (its last answer was {judge.last})" if judge.last else ""
    if Path(frames[-1].filename).is_relative_to(TESTS):
        return f"the test could not go on with what {name} did{gave}: {what}"
    return f"the engine could not go on with what {name} did{gave}: {what}{_where(frames[-1])}"


def _where(frame: traceback.FrameSummary) -> str:
    """`` in minillm/kvcache/pages.py, line 12 (append)``, if it is the engine's."""
    path, home = Path(frame.filename), clone() / "minillm"
    if not path.is_relative_to(home):
        return ""
    return f", in {path.relative_to(clone()).as_posix()}, line {frame.lineno} ({frame.name})"


@contextmanager
def stopped(patience: float, task: Task) -> Iterator[None]:
    """What runs longer is stopped; the error names the learner's line, and the loop that it is in."""
    if not patience:
        yield
        return

    def stop(_signal: int, frame: FrameType | None) -> None:
        raise StillRunning(running(frame, task, patience))

    handler = signal.signal(signal.SIGALRM, stop)
    left, _ = signal.setitimer(signal.ITIMER_REAL, patience)
    try:
        yield
    except StillRunning as error:
        raise NoEnd(str(error)).with_traceback(error.__traceback__) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)  # pytest-timeout's, if it had set one
        signal.signal(signal.SIGALRM, handler)


def running(frame: FrameType | None, task: Task, patience: float) -> str:
    """In words: at which of the learner's lines a test was stopped."""
    mine = str(my_file(task.number))
    while frame and frame.f_code.co_filename != mine:
        frame = frame.f_back
    if frame is None:
        return f"{task.qualname}: the engine still runs after {patience:g} seconds, and waits for what does not come"
    rows, line = linecache.getlines(mine), frame.f_lineno
    loops = [
        node
        for node in ast.walk(ast.parse("".join(rows)))
        if isinstance(node, ast.While | ast.For) and node.lineno <= line <= (node.end_lineno or line)
    ]
    at = max((node.lineno for node in loops), default=line)
    what = "the loop that begins there does not end" if loops else "it is still there"
    return f"{task.qualname}: after {patience:g} seconds, at line {at}, `{rows[at - 1].strip()}`: {what}"
