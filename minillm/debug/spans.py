"""Spans of time, and what a trace file holds of them. The file is a Chrome trace, as torch's profiler writes it."""

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Interval = tuple[float, float]  # begin and end, in microseconds

DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}  # categories of what ran on a GPU
HOST = {"cpu_op", "user_annotation"}  # and of what the profiler was told of on the CPU
LAUNCHES = {"cuda_runtime", "cuda_driver"}  # calls that set a GPU to work


@dataclass(slots=True)
class Span:
    """Something that took time: ``start`` and ``end`` in microseconds, ``category`` in the trace's own words.

    thread: the host's thread, or the GPU's stream. link: a number that a kernel shares with the call that launched it.
    """

    name: str
    category: str
    start: float
    end: float
    thread: Any = 0
    link: int = -1

    @property
    def duration(self) -> float:
        return self.end - self.start


def busy_and_idle(spans: Iterable[Interval], start: float, end: float) -> tuple[float, float]:
    """For how long, between ``start`` and ``end``, at least one span was going on, and for how long none.

    spans: begin and end of each, in any order. They may overlap, lie within each other, and reach over the window's
    edges: time that several share counts once, time outside of the window not at all.
    """
    busy, done = 0.0, start  # up to ``done``, all is counted
    for first, last in sorted(spans):
        first, last = max(first, done), min(last, end)
        if last > first:
            busy += last - first
            done = last
    return busy, (end - start) - busy


def read_trace(path: Path) -> dict[str, Any]:
    """A trace file, ``.json`` or ``.json.gz``; ValueError if it is none."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            trace = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path} as a trace: {error}") from None
    if not isinstance(trace, dict) or "traceEvents" not in trace:
        raise ValueError(f"{path} is no Chrome trace: it has no traceEvents; --profile writes such a file")
    return trace


def spans_of(trace: dict[str, Any]) -> list[Span]:
    """What took time in a trace, in the order in which it began; what lies within another comes after it."""
    wanted = DEVICE | HOST | LAUNCHES
    spans = [
        Span(
            event["name"], event["cat"], event["ts"], event["ts"] + event["dur"], event["tid"],
            event.get("args", {}).get("correlation", -1),
        )
        for event in trace["traceEvents"]
        if event.get("ph") == "X" and event.get("cat") in wanted
    ]  # fmt: skip
    return sorted(spans, key=lambda span: (span.start, -span.end))


def intervals(spans: Sequence[Span]) -> list[Interval]:
    return [(span.start, span.end) for span in spans]
