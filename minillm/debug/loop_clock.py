"""Who worked when: the host and the device, step by step, from the probes of a run.

The host schedules, launches, reads and commits. The device computes. Where the device is a GPU, its
times come from CUDA events, which it notes down itself when it gets there.
"""

import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import torch

from minillm.probe import Event

DEVICE = "compute"  # what the device does


class Span(NamedTuple):
    """What was done for a step, and when, in ``time.perf_counter`` seconds.

    what: schedule, launch (the tensors are built, the device is set to work), read (the host waits for tokens),
        commit; and compute, which the device does.
    """

    what: str
    step: int
    begin: float
    end: float


class LoopClock:
    """Inside ``with listen(LoopClock.PROBES, clock.note): ...`` spans are collected; `spans` gives them in order."""

    PROBES = (
        "scheduler.begin", "scheduler.plan", "batch.build", "graph.replay", "overlap.launch", "overlap.read",
        "stream.begin", "stream.end", "scheduler.commit", "engine.step",
    )  # fmt: skip

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._found: list[Span] = []
        self._open: dict[int, tuple[str, int, float]] = {}  # by thread: what it is at, of which step, since when
        self._marks: list[tuple[int, torch.cuda.Event, torch.cuda.Event]] = []  # step, and where the device was
        self._begun: tuple[int, torch.cuda.Event] | None = None
        self._start = self._mark() if self._cuda else None
        if self._cuda:
            torch.cuda.synchronize(device)
        self._zero = time.perf_counter()  # when the device was at `_start`

    def note(self, event: Event) -> None:
        """Take in one event: it ends what its thread was at, and begins something else."""
        name, at = event.name, event.time
        if name == "scheduler.begin":
            self._now("schedule", event.scheduler.num_steps, at)
        elif name in ("scheduler.plan", "overlap.launch"):
            self._now("launch", event.plan.step, at)
            self._device_begins(event.plan.step)
        elif name == "stream.begin":
            self._now(DEVICE, event.plan.step, at)
        elif name in ("batch.build", "graph.replay"):
            if self._begun:
                self._device_begins(self._begun[0])  # not before: without overlap, it had nothing to do until here
            at_it, step, _ = self._open.get(threading.get_ident(), ("", 0, 0.0))
            if at_it == "launch" and not self._cuda:
                self._now(DEVICE, step, at)  # the host itself computes
        elif name == "overlap.read":
            self._now("read", event.launched.plan.step, at)
            self._device_ends()
        elif name == "scheduler.commit":
            self._now("commit", event.plan.step, at)
            self._device_ends()
        else:  # stream.end, engine.step: between steps
            self._now("", 0, at)
            self._device_ends()

    def _now(self, what: str, step: int, at: float) -> None:
        """This thread is at something else from here on."""
        thread = threading.get_ident()
        before = self._open.pop(thread, None)
        if before and before[0]:
            self._found.append(Span(*before, at))
        self._open[thread] = what, step, at

    def _device_begins(self, step: int) -> None:
        """From here on the GPU works on a step, or as soon as it is done with the one before."""
        if self._cuda:
            self._begun = step, self._mark()

    def _device_ends(self) -> None:
        """All of the step that was launched last is in the GPU's queue."""
        if self._begun is not None:
            self._marks.append((*self._begun, self._mark()))
            self._begun = None

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def spans(self) -> list[Span]:
        """All that is over, in order of time."""
        found = list(self._found)
        if self._start is not None:
            torch.cuda.synchronize()
            for step, begin, end in self._marks:
                ends = [self._zero + self._start.elapsed_time(mark) / 1000 for mark in (begin, end)]
                found.append(Span(DEVICE, step, *ends))
        return sorted(found, key=lambda span: (span.begin, span.end))


def of_device(spans: Sequence[Span], after: int = 0) -> list[Span]:
    """What the device did in steps later than ``after``, in order."""
    return [span for span in spans if span.what == DEVICE and span.step > after]


def gaps(spans: Sequence[Span], after: int = 0) -> list[float]:
    """For how many seconds the device had nothing to do, between each two of its steps."""
    return [max(later.begin - earlier.end, 0.0) for earlier, later in pairwise(of_device(spans, after))]


def calmest(spans: Sequence[Span], count: int, after: int = 2) -> int:
    """The first of ``count`` steps in a row, later than step ``after``, that took as long as steps usually do. So did
    the one before them."""
    steps = of_device(spans, after)
    lengths = [later.begin - earlier.begin for earlier, later in pairwise(steps)]
    if len(lengths) <= count:
        return steps[0].step if steps else after + 1
    usual = median(lengths)
    worst = {i: max(abs(one - usual) for one in lengths[i - 1 : i + count]) for i in range(1, len(lengths) - count + 1)}
    return steps[min(worst, key=lambda i: worst[i])].step
