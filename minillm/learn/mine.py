"""The learner's file as functions: read, checked for what is missing, and adopted by the engine's classes."""

import ast
import importlib
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import dedent
from types import CellType, FunctionType, ModuleType
from typing import Any

from minillm.learn.build import Build
from minillm.learn.home import my_file, shown
from minillm.learn.registry import lesson_tasks
from minillm.learn.source import Source, definition, probe_lines
from minillm.learn.tasks import Task


class MineError(ValueError):
    """Something in the learner's own file is wrong. The text says what, and where."""


def read_mine(number: str) -> Source:
    """The learner's file of a lesson. MineError if there is none, or if it is no Python."""
    path = my_file(number)
    if not path.exists():
        raise MineError(f"there is no {shown(path)} yet; begin with: python -m minillm learn start {number}")
    try:
        return Source.read(path)
    except SyntaxError as error:
        marked = "".join(traceback.format_exception_only(error)[1:]).rstrip()  # the line, a caret, what is wrong
        raise MineError(f"{shown(path)}, line {error.lineno}, is no Python:\n{marked}") from None
    except (UnicodeDecodeError, OSError) as error:
        raise MineError(f"{shown(path)} cannot be read: {error}") from None


def load(number: str, source: Source | None = None) -> ModuleType:
    """Run the learner's file (or a text in its place) as a module."""
    path = my_file(number)
    source = source or read_mine(number)
    module = ModuleType(f"my_ex{number}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(source.text, str(path), "exec"), vars(module))
    except Exception as error:
        raise MineError(f"{blame(error, path)}, while the file was read") from None
    except SystemExit as error:
        line = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        raise MineError(f"{shown(path)}, line {line[-1]}, ends the whole program, while the file was read") from None
    return module


def load_build(build: Build, source: Source | None = None) -> ModuleType:
    """The learner's file of a build. MineError names what the engine would call, if it is not there."""
    module = load(build.number, source)
    for name in build.names:
        if not hasattr(module, name):
            raise MineError(
                f"{shown(my_file(build.number))} has no {name}, which the engine calls by this name. Was it renamed? "
                f"Rename it back, or begin anew: python -m minillm learn reset {build.id}"
            )
    return module


def functions_of(module: ModuleType, tasks: Iterable[Task]) -> dict[str, Any]:
    """Target -> the learner's function, for some tasks of one lesson. MineError names one that is not there.

    A method comes as it stands in its class: a property, a staticmethod, or what a decorator made of it. Methods that
    the learner has added to the class come along, since the others may call them.
    """
    found: dict[str, Any] = {}
    for task in tasks:
        holder: Any = getattr(module, task.class_name, None) if task.class_name else module
        names = vars(holder) if isinstance(holder, type | ModuleType) else {}
        if task.name not in names:
            raise MineError(_missing(module, task))
        found[task.target] = names[task.name]
        if isinstance(holder, type):
            live = live_class(task)
            _adopt(holder, live)
            helpers = [name for name in names if not name.startswith("__") and not hasattr(live, name)]
            found |= {f"{task.module}:{task.class_name}.{name}": names[name] for name in helpers}
    _use_live_ones(module, found)
    return found


def live_class(task: Task) -> type:
    return getattr(importlib.import_module(task.module), task.class_name)


def blame(error: BaseException, path: Path) -> str:
    """``my/ex03.py, line 41, in append: IndexError: ...``: the error, at the last line of the learner's in its way."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    what = "".join(traceback.format_exception_only(error)).strip()
    if not frames:
        return what
    where = f", in {frames[-1].name}" if frames[-1].name != "<module>" else ""
    return f"{shown(path)}, line {frames[-1].lineno}{where}: {what}"


def written(source: Source, tasks: Iterable[Task]) -> list[Task]:
    """The tasks that no longer raise `Todo`. One that is not there at all counts: whoever loads it says so."""
    found = [(task, source.find(task.qualname) if task.target else [source.tree]) for task in tasks]
    return [task for task, nodes in found if not any(_raises_todo(node) for node in nodes)]


def _raises_todo(node: ast.AST) -> bool:
    return any(isinstance(one, ast.Raise) and "Todo" in ast.unparse(one) for one in ast.walk(node))


def probes_left_out(source: Source, tasks: Iterable[Task]) -> Iterator[tuple[Task, str]]:
    """Probes that the engine's functions have and the learner's lack: what lessons draw from them will be missing."""
    for task in tasks:
        if not task.target:
            continue  # a build: there is no function of the engine's to compare it with
        mine = [name for node in source.find(task.qualname) for name, _ in probe_lines(node)]
        for name, _ in probe_lines(ast.parse(dedent(definition(task)))):
            if name not in mine:
                yield task, name


def _missing(module: ModuleType, task: Task) -> str:
    path = shown(my_file(task.number))
    holder = getattr(module, task.class_name, None) if task.class_name else module
    if not isinstance(holder, type | ModuleType):
        return (
            f"{path} has no class {task.class_name}, which holds exercise {task.id}; was it renamed? Rename it back, "
            f"or begin anew: python -m minillm learn reset {task.id}"
        )
    own = [n for n, v in vars(holder).items() if getattr(v, "__module__", None) == module.__name__ and n[:2] != "__"]
    there = f"; there is {', '.join(own)}" if own else ""
    return (
        f"{path} has no {task.qualname}, which is exercise {task.id}{there}. Was it renamed? "
        f"The engine calls it by its name: rename it back, or begin anew: python -m minillm learn reset {task.id}"
    )


def _adopt(mine: type, live: type) -> None:
    """``super()`` and the class's own name, in the learner's methods, mean the engine's class from now on."""
    for value in vars(mine).values():
        for function in _functions_in(value):
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
                if name == "__class__" and isinstance(cell, CellType):
                    cell.cell_contents = live


def _functions_in(value: Any) -> Iterator[FunctionType]:
    """The plain functions inside a property, a staticmethod or a decorator."""
    for inner in (value, *(getattr(value, name, None) for name in ("fget", "fset", "fdel", "__func__", "__wrapped__"))):
        if isinstance(inner, FunctionType):
            yield inner


def _use_live_ones(module: ModuleType, chosen: dict[str, Any]) -> None:
    """What is not chosen is the engine's, also where the learner's functions call each other."""
    for task in lesson_tasks(module.__name__[-2:]):
        if task.class_name:
            setattr(module, task.class_name, live_class(task))
        elif task.target not in chosen:
            setattr(module, task.name, getattr(importlib.import_module(task.module), task.name))
