"""Single keys from the terminal, without Enter. Where there is no terminal, or no way to ask it, none is pressed."""

import os
import select
import sys
from types import ModuleType

from minillm.debug.open_line import is_terminal

termios: ModuleType | None
msvcrt: ModuleType | None
try:
    import termios
except ImportError:  # Windows
    termios = None
try:
    import msvcrt
except ImportError:
    msvcrt = None


class Keys:
    """``with Keys() as keys: ... keys.pressed()``: the terminal hands on every key, until the end or `let_go`."""

    def __init__(self) -> None:
        there = is_terminal(sys.stdin) and is_terminal(sys.stdout)
        self.terminal = sys.stdin.fileno() if there and termios else None
        self.there = there and bool(termios or msvcrt)
        self._before: list[object] | None = None

    def __enter__(self) -> "Keys":
        self.take()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.let_go()

    def take(self) -> None:
        """Keys come one by one and are not shown; Ctrl-C stays what it is."""
        if self.terminal is None or termios is None or self._before is not None:
            return
        self._before = termios.tcgetattr(self.terminal)
        changed = termios.tcgetattr(self.terminal)
        changed[3] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(self.terminal, termios.TCSADRAIN, changed)

    def let_go(self) -> None:
        """The terminal as it was."""
        if self._before is not None and termios is not None:
            termios.tcsetattr(self.terminal, termios.TCSADRAIN, self._before)
            self._before = None

    def pressed(self, wait: float = 0) -> str:
        """The next key, if one is pressed within so many seconds; "" if none is. The input's end is "q"."""
        if msvcrt is not None and self.there:
            return str(msvcrt.getwch()) if msvcrt.kbhit() else ""
        if self._before is None or self.terminal is None or not select.select([self.terminal], [], [], wait)[0]:
            return ""
        typed = os.read(self.terminal, 32).decode(errors="replace")
        if not typed:
            return "q"
        return typed[0] if typed[0] != "\x1b" else ""  # an arrow, and the like
