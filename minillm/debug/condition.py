"""The condition of a preset breakpoint: ``--break-when "request.id == 2"``."""

import builtins
from pathlib import Path
from types import FrameType

from minillm.debug.open_line import say
from minillm.probe import Event

_BUILTINS = dict(vars(builtins))  # Python's own; the first stop adds the debug console's helpers to the live ones


class Condition:
    """A Python expression that says whether to stop, over a probe's values and the names of whoever called the probe.

    Names are looked up in this order: the event's values; ``event`` and ``name`` (the probe's name) and ``step``; the
    caller's locals; its module's globals. An expression that fails counts as false, and is reported once.
    asked, held: how often, of the probes that match ``patterns``.
    """

    def __init__(self, expression: str, patterns: tuple[str, ...]) -> None:
        self.expression, self.patterns = expression.strip(), patterns
        self.reported = False
        self.asked = self.held = 0
        try:
            self._code = compile(self.expression, "<condition>", "eval")
        except SyntaxError as error:
            line, column = error.text or self.expression, max(error.offset or 1, 1)
            raise ValueError(
                f"the condition is no Python expression: {error.msg}\n    {line.rstrip()}\n    {' ' * (column - 1)}^"
            ) from None

    def holds(self, event: Event) -> bool:
        self.asked += 1
        held = self._try(event)
        self.held += held
        return held

    def never_held(self) -> str:
        """What to say of it at the end."""
        probes = ", ".join(self.patterns)
        if not self.asked:
            return f"minillm: the condition {self.expression!r} was never asked: no {probes} came by"
        events = "the one event" if self.asked == 1 else f"{self.asked:,} events"
        return f"minillm: the condition {self.expression!r} never held at {events} of {probes}"

    def _try(self, event: Event) -> bool:
        frame = event.frame
        special = {"event": event.name, "name": event.name, "step": event.step}
        # One flat dictionary: names inside a comprehension are looked up among the globals only.
        names = {**frame.f_globals, **frame.f_locals, **special, **event.values, "__builtins__": _BUILTINS}
        try:
            return bool(eval(self._code, names))
        except Exception as error:
            if not self.reported:
                self.reported = True
                self._report(event, error)
            return False

    def _report(self, event: Event, error: Exception) -> None:
        local_names = sorted(set(event.frame.f_locals) - set(event.values))
        say(
            f"minillm: the condition {self.expression!r} failed at probe {event.name} ({_where(event.frame)}):\n"
            f"    {type(error).__name__}: {error}\n"
            f"    names there: {', '.join(event.values)}; event, name, step; of the caller: {', '.join(local_names)}\n"
            "    It counts as false wherever it fails, and is not reported again."
        )


def _where(frame: FrameType) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
