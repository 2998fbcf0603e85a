"""The time line of a loop that is one step ahead: a lane for the host, one for the device.

A step is planned while the one before is under way, so its parts are kept until its result is read.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Part(NamedTuple):
    """A slice of the host's lane or the device's, and what the device's is worth for the requests' lanes."""

    on_device: bool
    name: str
    begin: float
    end: float


@dataclass
class Flight:
    """One step: when each thing was done for it, and its plan."""

    step: int
    plan: dict[str, Any]
    marks: dict[str, float] = field(default_factory=dict)

    def parts(self, end: float, earliest: float) -> list[Part]:
        """All that was done for it, up to ``end``. A device that says nothing of itself was at it from its launch, or
        from ``earliest`` on, when the result of the step before came."""
        marks = self.marks
        read, committed = marks.get("read", end), marks.get("commit", end)
        launched = min(marks.get("away", read), read)
        at = marks.get("device", min(max(marks["launch"], earliest), committed))
        return [
            Part(False, f"schedule {self.step}", marks["begin"], marks["launch"]),
            Part(False, f"launch {self.step}", marks["launch"], launched),
            Part(False, f"read {self.step}", read, committed),
            Part(False, f"commit {self.step}", committed, end),
            Part(True, f"step {self.step}", at, max(marks.get("done", committed), at)),
        ]


class Flights:
    """The steps that are launched and not read yet, in order."""

    def __init__(self) -> None:
        self.flying: dict[int, Flight] = {}
        self.landing: Flight | None = None
        self.landed = 0.0  # when the last one's tokens were read
        self.any = False  # whether this engine was ever ahead

    def launch(self, flight: Flight, at: float) -> None:
        self.any = True
        flight.marks["launch"] = at
        self.flying[flight.step] = flight

    def mark(self, name: str, step: int, at: float) -> None:
        """Something was done for a step; nothing happens if it was dropped."""
        if step in self.flying:
            self.flying[step].marks.setdefault(name, at)

    def away(self, at: float) -> None:
        """The host is done with launching, and at something else."""
        self.mark("away", max(self.flying, default=0), at)

    def commit(self, step: int, at: float) -> None:
        self.mark("commit", step, at)
        self.landing = self.flying.pop(step, None)
        self.flying = {other: flight for other, flight in self.flying.items() if other > step}  # an older one is lost
