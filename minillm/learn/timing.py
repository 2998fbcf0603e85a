"""How lessons and ``learn race`` measure: a stop-watch, and a bar that says how far a measurement is."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, TypeVar

from minillm.debug.open_line import ERASE, fresh_line, is_terminal, leave_open

if TYPE_CHECKING:
    from minillm.engine.engine import Engine

WIDTH = 20  # characters of the bar
Item = TypeVar("Item")
Name = TypeVar("Name")
Found = TypeVar("Found")
ROUNDS = range(3)  # so often each of several ways is measured, unless a lesson says it otherwise


def time_steps(engine: "Engine", after_each: Callable[[], None] | None = None) -> tuple[list[float], int]:
    """Step until all requests have ended: the seconds of each step, and how many tokens the steps were asked for.

    A step is asked for all that is pending, and computes just that where no budget cuts a prompt.
    after_each: called between two steps, off the clock.
    """
    (seconds,), (tokens,) = steps_in_turns([engine], after_each)
    return seconds, tokens


def in_turns(ways: Mapping[Name, Callable[[], Found]], rounds: Iterable[object] = ROUNDS) -> dict[Name, list[Found]]:
    """Measure each way once in every round, one after the other: what each has found, round by round.

    What disturbs the machine for a while then disturbs them all; and how far the rounds of one way lie apart says how
    large a difference must be to be one (``debug/views/spread.py``).
    """
    found: dict[Name, list[Found]] = {name: [] for name in ways}
    for _ in rounds:
        for name, way in ways.items():
            found[name].append(way())
    return found


def steps_in_turns(
    engines: "Sequence[Engine]", after_each: Callable[[], None] | None = None
) -> tuple[list[list[float]], list[int]]:
    """Step the engines in turn, one step each, until all are done: the seconds of each one's steps, and its tokens."""
    seconds: list[list[float]] = [[] for _ in engines]
    tokens = [0 for _ in engines]
    while any(engine.has_requests for engine in engines):
        for i, engine in enumerate(engines):
            if engine.has_requests:
                tokens[i] += _asked_for(engine)
                seconds[i].append(_one_step(engine))
                if after_each:
                    after_each()
    return seconds, tokens


def in_rounds(seconds: Sequence[float], size: int = 4) -> list[float]:
    """Many short measurements as a few rounds: the median of each ``size`` that follow each other."""
    return [median(seconds[i : i + size]) for i in range(0, max(len(seconds) - size + 1, 1), size)]


def _asked_for(engine: "Engine") -> int:
    """The tokens that the next step is asked for."""
    return sum(request.num_pending for request in (*engine.scheduler.running, *engine.scheduler.waiting))


def _one_step(engine: "Engine") -> float:
    start = time.perf_counter()
    engine.step()
    return time.perf_counter() - start


class Bar:
    """``with Bar("timing steps", total=160, shown=True) as bar: ... bar.move()``: on stderr, gone when that is done.

    Only where a person looks: in a terminal, and not with --plain. It moves between two measurements and never during
    one, so that it takes no time from what is measured.
    """

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
