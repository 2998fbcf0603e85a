"""The lines that a Triton kernel runs in the interpreter, one after the other, and what each of them made.

The interpreter runs a kernel's source as Python, so Python's own tracing sees every line of it.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from minillm.debug.short import short


@dataclass
class Line:
    """One line that ran: its number and text in the kernel's file, and the variables that it gave a new value."""

    number: int
    text: str
    made: dict[str, str] = field(default_factory=dict)


@contextmanager
def traced(kernel: Any) -> Iterator[list[Line]]:
    """Inside, the lines of the first program of ``kernel`` (an interpreted one) come into the list as they run.

    Nothing comes where a debugger is tracing already, which sees them for itself.
    """
    lines: list[Line] = []
    if sys.gettrace() is not None:
        yield lines
        return
    source, first = inspect.getsourcelines(kernel.fn)
    tracer = _tracer(kernel.fn.__name__, lines, dict(enumerate(source, first)))
    sys.settrace(tracer)
    try:
        yield lines
    finally:
        if sys.gettrace() is tracer:  # else somebody has opened a debugger inside
            sys.settrace(None)


def _tracer(name: str, lines: list[Line], source: dict[int, str]) -> Callable[..., Any]:
    programs: list[FrameType] = []  # the first, kept, so that no later one is taken for it
    held: dict[str, Any] = {}

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        if frame.f_code.co_name != name or (programs and programs[0] is not frame):
            return None
        programs[:] = [frame]
        for variable, value in frame.f_locals.items():  # what the line before has made
            if held.get(variable, held) is not value:
                held[variable] = value
                if lines:
                    lines[-1].made[variable] = short(value)
        if event == "line":
            lines.append(Line(frame.f_lineno, source.get(frame.f_lineno, "").rstrip().removeprefix("    ")))
        return trace

    return trace
