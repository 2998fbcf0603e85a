"""What a learner sees while a lesson measures: a bar on stderr that says how far it is. It is gone when that is done.

Only where a person looks: in a terminal, and not with --plain. It moves between two measurements and never during one,
so that it takes no time from what is measured.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from minillm.debug.open_line import ERASE, fresh_line, is_terminal, leave_open

WIDTH = 20  # characters of the bar
Item = TypeVar("Item")


class Bar:
    """``with Bar("timing steps", total=160, shown=True) as bar: ... bar.move()``."""

    def __init__(self, what: str, total: int, shown: bool = True) -> None:
        self.what, self.total = what, total
        self.shown = shown and is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"
        self.done = 0

    def __enter__(self) -> "Bar":
        self._draw()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.shown:
            fresh_line(sys.stderr)

    def move(self) -> None:
        """One more is done."""
        self.done += 1
        if self.done * WIDTH // self.total != (self.done - 1) * WIDTH // self.total or self.total < 2 * WIDTH:
            self._draw()

    def _draw(self) -> None:
        if not self.shown:
            return
        filled = WIDTH * self.done // self.total
        fresh_line(sys.stderr)
        line = f"  [{'=' * filled}{' ' * (WIDTH - filled)}] {self.what}: {self.done} of {self.total}"
        print(line[:78], end="", file=sys.stderr, flush=True)
        leave_open(ERASE, sys.stderr)


def each(items: Iterable[Item], what: str, shown: bool = True) -> Iterator[Item]:
    """The items one by one, and a bar that counts them."""
    known = list(items)
    with Bar(what, len(known), shown) as bar:
        for item in known:
            yield item
            bar.move()
