"""The line that stands open in the terminal: a piece of an answer, or a bar that says how far a measurement is.

Whoever leaves a line open says so here. Whoever has something to say in between (a log line, a stop) asks for a line of
its own first, so that the two do not run into each other.
"""

import os
import sys
from contextlib import suppress
from typing import IO, Any

ERASE = "\r\x1b[K"  # back to the line's beginning, and clear it

_open: tuple[IO[str], str] | None = None  # where it stands, and what makes room there


def stream(text: str) -> None:
    """Print a piece of an answer as it is made; the next one goes on where this one ends."""
    print(text, end="", flush=True)
    if text:
        leave_open(None if text.endswith("\n") else "\n", sys.stdout)


def leave_open(ending: str | None, where: IO[str]) -> None:
    """The cursor stands behind something on ``where``. ``ending`` makes room for something else; None: it is free."""
    global _open
    _open = (where, ending) if ending else None


def fresh_line(where: IO[str]) -> None:
    """Make room for a line of its own on ``where``, if that shows the open line: the same terminal, the same file."""
    global _open
    if _open and same_place(_open[0], where):
        stream, ending = _open
        _open = None
        with suppress(OSError, ValueError):  # closed, or nobody reads it any more
            print(ending, end="", file=stream, flush=True)


def say(text: str) -> None:
    """Something about the run that is no part of its output: on stderr, on a line of its own."""
    fresh_line(sys.stderr)
    print(
        f"{text}\n", end="", file=sys.stderr, flush=True
    )  # in one piece: another thread may have something to say, too


def same_place(one: Any, other: Any) -> bool:
    """Whether what is written to both is seen in one place: two ways to one terminal, ``2>&1``."""
    if one is other or (is_terminal(one) and is_terminal(other)):
        return True
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError, AttributeError):  # not open, or nothing that the system knows
        return False


def is_terminal(stream: Any) -> bool:
    """Also of a stream that is closed, or is not there at all (``>&-``): no."""
    try:
        return stream.isatty()
    except (ValueError, AttributeError):
        return False
