"""How a command ends: what the user got wrong is one message, Ctrl-C one line, a closed pipe nothing at all."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, what shells report for a program that Ctrl-C ended
PIPE_CLOSED = 141  # 128 + SIGPIPE


class GuardedGroup(TyperGroup):
    """The commands, run so that each ending has its message and its exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            # Whoever read our output has left (`| head`). What is still to be flushed goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(PIPE_CLOSED) from None
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except (ValueError, FileNotFoundError) as error:
            if ctx.params.get("traceback"):
                raise
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(USER_ERROR) from None


class Interrupt:
    """Whether Ctrl-C was pressed since the beginning. Ask it between steps, where the engine is in order."""

    def __init__(self) -> None:
        self.asked = False

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt  # the second time: now
        self.asked = True


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Inside, the first Ctrl-C only raises a flag, so that no step is torn in half."""
    interrupt = Interrupt()
    before = signal.signal(signal.SIGINT, interrupt._handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
