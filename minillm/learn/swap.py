"""The learner's functions in the engine's place, for as long as a ``with`` lasts.

A method is set on its class, so instances that are alive have it at once, and classes that inherit it too. A function
is exchanged in every module that has imported it by name. Both are undone at the end.

Another process starts with the engine as it is. So the environment says whose functions are in (MINILLM_MINE), and
``import minillm`` reads it: whatever process the engine starts, the functions are there before the engine is.

Compiled kernels do by themselves what some of these functions do, and would never call them. While functions are
swapped in, ``"auto"`` therefore means the plain kernels in torch, and attention that goes with them.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from minillm.learn.build import Build
from minillm.learn.home import my_file, my_folder, shown
from minillm.learn.mine import MineError, blame, functions_of, load, load_build, probes_left_out, read_mine, written
from minillm.learn.registry import lesson_tasks, task
from minillm.learn.tasks import Task
from minillm.learn.todo import Todo

PLAIN = {"kernels": "torch", "attention_backend": "reference"}  # the settings that every exercise is run with
VARIABLE = "MINILLM_MINE"  # ids of the tasks that child processes swap in: "3.1,3.2"
_MISSING = object()


@contextmanager
def mine(tasks: Iterable[Task]) -> Iterator[None]:
    """Inside, these tasks' functions are those of the learner's files, here and in processes that are started here."""
    tasks = list(tasks)
    functions: dict[str, Any] = {}
    with ExitStack() as stack:
        for number in dict.fromkeys(one.number for one in tasks):
            chosen = [one for one in tasks if one.number == number]
            if isinstance(chosen[0], Build):
                stack.enter_context(chosen[0].placed(partial(load_build, chosen[0])))
            else:
                functions |= functions_of(load(number), chosen)
        if functions:
            stack.enter_context(swapped(functions))
        stack.enter_context(_told_to_children(tasks))
        yield


@contextmanager
def lesson_on_mine(number: str, say: Callable[[str], None]) -> Iterator[None]:
    """``--mine``: inside, the lesson's functions are the learner's, as far as they are written; a `Todo` if none is.

    What goes wrong in them is a MineError with file and line.
    """
    tasks = lesson_tasks(number)
    source, path = read_mine(tasks[0].number), my_file(tasks[0].number)
    yours = written(source, tasks)
    if not yours:
        raise Todo(tasks[0].id)
    left_out = list(probes_left_out(source, yours))
    say(f"The engine runs on your own {_names(yours)} from {shown(path)}, with plain torch kernels.")
    if others := [one for one in tasks if one not in yours]:
        say(f"Still the engine's own, because you have not written them yet: {_names(others)}.")
    for one, probe in left_out:
        say(f"Your {one.qualname} has no probe {probe!r}: what the lesson shows of it will be missing.")
    with mine(yours):
        try:
            yield
        except (Todo, KeyboardInterrupt):
            raise
        except Exception as error:
            text = blame(error, path)
            if not text.startswith(shown(path)):  # it went wrong somewhere else
                text = f"{text}\n{_elsewhere(number, bool(left_out))}"
            raise MineError(text) from error


def _names(tasks: list[Task]) -> str:
    return ", ".join(task.qualname for task in tasks)


def _elsewhere(number: str, probes_are_missing: bool) -> str:
    probes = "The lesson looks through probes that are missing (see above). " if probes_are_missing else ""
    return f"{probes}Are your functions right? python -m minillm learn check {number}"


@contextmanager
def _told_to_children(tasks: list[Task]) -> Iterator[None]:
    told = {VARIABLE: ",".join(one.id for one in tasks), "MINILLM_MY": str(my_folder())}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def swapped(functions: dict[str, Any]) -> Iterator[None]:
    """Inside, each target (``module:Class.name``) is the function given for it."""
    with ExitStack() as stack:
        stack.enter_context(plain_kernels())
        for target, function in functions.items():
            stack.enter_context(_put(target, function))
        yield


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Inside, kernels="auto" means torch's; attention_backend="auto" then means the reference."""
    from minillm.worker.platform import choose_kernels  # here: a name of this module would be exchanged, too

    def choose_plain(name: str, device: Any, dtype: Any) -> Any:
        return choose_kernels("torch" if name == "auto" else name, device, dtype)

    with _put("minillm.worker.platform:choose_kernels", choose_plain):
        yield


def swap_from_environment() -> None:
    """Called by ``import minillm`` where MINILLM_MINE is set; this process keeps the functions until its end."""
    ids = [id.strip() for id in os.environ.get(VARIABLE, "").split(",") if id.strip()]
    _for_good.enter_context(mine(task(id) for id in ids))


_for_good = ExitStack()


@contextmanager
def _put(target: str, function: Any) -> Iterator[None]:
    module_name, _, qualname = target.partition(":")
    class_name, _, name = qualname.rpartition(".")
    module = importlib.import_module(module_name)
    with _on_class(getattr(module, class_name), name, function) if class_name else _in_modules(module, name, function):
        yield


@contextmanager
def _on_class(home: type, name: str, function: Any) -> Iterator[None]:
    before = vars(home).get(name, _MISSING)
    setattr(home, name, function)
    try:
        yield
    finally:
        if before is _MISSING:
            delattr(home, name)
        else:
            setattr(home, name, before)


@contextmanager
def _in_modules(home: ModuleType, name: str, function: Any) -> Iterator[None]:
    """Wherever the function is held by any name. A module that is imported meanwhile finds the new one, and is
    searched at the end."""
    before = getattr(home, name)
    _exchange(before, function)
    setattr(home, name, function)
    try:
        yield
    finally:
        _exchange(function, before)
        setattr(home, name, before)


def _exchange(old: Any, new: Any) -> None:
    """Every name, and every entry of the engine's tables of functions, that holds ``old`` holds ``new``."""
    # In the learner's own file names mean what they say: a function there may wrap the engine's.
    own = {name for f in (old, new) if (name := str(getattr(f, "__module__", ""))).startswith("my_ex")}
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if not isinstance(names, dict) or names.get("__name__") in own:
            continue
        for name, value in list(names.items()):
            if value is old:
                names[name] = new
            elif type(value) is dict and module.__name__.startswith("minillm."):
                for key in [key for key, held in value.items() if held is old]:
                    value[key] = new
