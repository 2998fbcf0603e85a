"""Preset breakpoints and log points: the engine's probes, armed from the command line, the environment or a script.

An editor keeps its breakpoints outside the project, so a project cannot ship them. Probes are breakpoints that lie in
the code itself: ``MINILLM_BREAK="kv.*" python ...`` stops at each probe of that name, in the frame that called it, on
the statement after it, in VS Code if that is attached and in pdb otherwise. A log point prints a line and goes on.
"""

import atexit
import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from minillm.debug.blind import warn_the_blind
from minillm.debug.catalogue import catalogue
from minillm.debug.condition import Condition
from minillm.debug.open_line import say
from minillm.debug.short import short
from minillm.probe import Event, Listener, listen


@dataclass(eq=False)
class Armed:
    """Breakpoints and log points that are set. ``close()``, or the end of a ``with`` block, takes them away again.

    A condition that never held is told of then, or at the program's end: else one would wait for a stop in vain.
    """

    listeners: list[Listener] = field(default_factory=list)
    condition: Condition | None = None

    def close(self) -> None:
        while self.listeners:
            self.listeners.pop().close()
        if self in _all_armed:
            _all_armed.remove(self)
            atexit.unregister(self.close)
            if self.condition and not self.condition.held:
                say(self.condition.never_held())

    def __enter__(self) -> "Armed":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


_all_armed: list[Armed] = []


def disarm() -> None:
    """Take away every breakpoint and log point, whoever set it: from here the program runs through to its end."""
    for armed in _all_armed.copy():
        armed.close()


def arm(break_at: str | Iterable[str] | None, when: str | None = None, log: str | Iterable[str] | None = None) -> Armed:
    """Stop at probes that match ``break_at``, if ``when`` is true there; print a line at those that match ``log``.

    Patterns are shell style, one or several, also in one string with commas: ``"kv.*,scheduler.preempt"``. ValueError
    for a pattern that matches no probe, or a condition that is no Python expression; then nothing is set.
    """
    stops, logs = _patterns(break_at), _patterns(log)
    if when and not stops:
        raise ValueError(f"the condition {when!r} has nothing to stop at; say which probes, '*' for all")
    condition = Condition(when, stops) if when else None
    armed = Armed(condition=condition)
    if logs:  # before the stops, so that a probe that does both is printed first
        armed.listeners.append(listen(logs, _print_line))
    if stops:
        from minillm.debug.debuggers import stop  # brings pdb, which an engine that never stops need not load

        def callback(event: Event) -> None:
            if condition is None or condition.holds(event):
                stop(event, when)

        armed.listeners.append(listen(stops, callback))
    if recorded := [name for name in stops + logs if name in ("graph.record", "graph.replay")]:
        armed.listeners.append(listen("graph.choose", lambda event: _say_if_eager(event, recorded)))
    if armed.listeners:
        _all_armed.append(armed)
        atexit.register(armed.close)
    return armed


_from_environment: Armed | None = None


def arm_from_environment() -> Armed:
    """Arm what MINILLM_BREAK, MINILLM_BREAK_WHEN and MINILLM_LOG ask for. Only a process's first call reads them."""
    global _from_environment
    if _from_environment is None:
        warn_the_blind()
        names = ("MINILLM_BREAK", "MINILLM_BREAK_WHEN", "MINILLM_LOG")
        try:
            _from_environment = arm(*(os.environ.get(name) for name in names))
        except ValueError as error:
            given = ", ".join(f"{name}={os.environ[name]!r}" for name in names if os.environ.get(name))
            raise ValueError(f"{error}\n(from the environment: {given})") from None
    return _from_environment


def _patterns(given: str | Iterable[str] | None) -> tuple[str, ...]:
    """One string with commas or several, as single patterns, each of which matches a probe."""
    parts = [given] if isinstance(given, str) else list(given or ())
    patterns = tuple(pattern.strip() for part in parts for pattern in part.split(",") if pattern.strip())
    names = list(catalogue()) if patterns else []
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}"
            raise ValueError(f"no probe is called {pattern!r}; {hint}")
    return patterns


def _say_if_eager(event: Event, names: list[str]) -> None:
    """An engine that launches every step from Python never comes by these; whoever waits there is told why."""
    if why := event.values.get("eager"):
        hint = "; enforce_eager=False records all the same" if "a replay runs past" in why else ""
        say(f"minillm: {' and '.join(names)} will not come by in this engine: {why}{hint}")


def _print_line(event: Event) -> None:
    values: dict[str, Any] = event.values
    facts = {key: short(value) for key, value in values.items()}
    # Of an object without anything to show there would be its kind's name, which says nothing.
    shown = "  ".join(f"{key}={text}" for key, text in facts.items() if text != type(values[key]).__name__)
    say(f"step {event.step:<3} {event.name:<18} {shown}".rstrip())
