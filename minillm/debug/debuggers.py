"""Stopping in a caller's frame, on the statement after its probe: in an attached debugger, or in pdb.

Both debuggers are told to stop at the next line *of that frame*. Neither this file nor `probes` is ever seen on the
way: the learner lands in the engine, with the engine's own variables.
"""

import builtins
import importlib
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from minillm.debug.catalogue import catalogue
from minillm.debug.frame_names import frame_names
from minillm.debug.open_line import say
from minillm.debug.own_pdb import stop_in_pdb
from minillm.debug.short import short
from minillm.probe import Event, attached

HELPERS = (
    "where(request, position)", "why(request)", "shapes()", "pages()", "table()", "tree()", "look()", "disarm()",
)  # fmt: skip
last: Event | None = None  # the stop that came last
_last_names: dict[str, str] = {}  # its values' names in the frame, read while the frame still stood at the probe


class Helper:
    """A helper as consoles know it: called, it answers; without its brackets it says what it is.

    A probe's value may have the same name, and another one in the frame: ``p pages`` then tells which one.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.function(*arguments, **named)

    def __repr__(self) -> str:
        name = self.function.__name__
        said = f"a helper, to be called: {name}()"
        own = _last_names.get(name)
        return f"{said}; the value {name!r} of probe {last.name} is here: {own}" if last and own else said


def stop(event: Event, when: str | None = None) -> None:
    """Stop where ``event`` came from, as soon as its probe has returned. ``when`` is the condition that held."""
    global last, _last_names
    last, _last_names = event, frame_names(event.name, event.frame)
    offer_helpers()
    if attached():
        say(header(event, when))
        _stop_attached(event.frame)
    else:
        stop_in_pdb(event, header(event, when))


def offer_helpers() -> None:
    """Make the helpers of `minillm.debug.console` known wherever the program stops, without an import.

    They become builtins: pdb and VS Code's debug console both look there last, and no frame's variables change. They
    are taken in by name because they know the engine, and stand floors above this file.
    """
    console = importlib.import_module("minillm.debug.console")
    for name in console.__all__:
        setattr(builtins, name, Helper(getattr(console, name)))


def header(event: Event, when: str | None = None) -> str:
    """What a learner must know on arrival: which probe, what happens there, what it was given.

    ``pool (self.pool) = ...``: the probe's name, which conditions use, and the frame's, which is the one to type.
    """
    file, line = Path(event.frame.f_code.co_filename).name, event.frame.f_lineno
    info = catalogue().get(event.name)
    lines = [f"── {event.name} ── step {event.step} ── {file}:{line} ──"]
    if info:
        lines.append(f"   {info.what}")
    here = frame_names(event.name, event.frame)
    for key, value in event.values.items():
        own = here.get(key, key)
        lines.append(f"   {key}{'' if own == key else f' ({own})'} = {short(value)}")
    if when:
        lines.append(f"   stopped because: {when}")
    lines += [f"   ask: {', '.join(HELPERS[:3])},", f"        {', '.join(HELPERS[3:])}"]  # 80 columns hold each
    return "\n".join(lines)


def _stop_attached(frame: FrameType) -> None:
    """Ask pydevd, the debugger inside debugpy, for a stop at the next line of ``frame``."""
    import pydevd

    pydevd.settrace(suspend=True, trace_only_current_thread=True, patch_multiprocessing=False, stop_at_frame=frame)
