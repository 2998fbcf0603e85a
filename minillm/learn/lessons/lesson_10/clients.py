"""Many clients at once: who works when, host or device, and how long all of it takes."""

import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from minillm.debug.loop_clock import LoopClock, Span, calmest, gaps, of_device
from minillm.debug.views.drawing import Drawing
from minillm.debug.views.two_lanes import two_lanes
from minillm.engine.engine import Engine
from minillm.learn.asking import ask, finish
from minillm.probe import Event, listen

CLIENTS = 16  # requests that write at the same time
WRITES = 24  # tokens that each of them wants
SHOWN = 3.4  # steps that a time line shows


@dataclass
class Served:
    """One run: the tokens of each request, who worked when, and how long it took (only one of them is measured)."""

    tokens: list[list[int]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def first(self) -> int:
        """The first step that all of its requests decode in."""
        return self.spans[0].step + 1

    @property
    def idle(self) -> float:
        """How long the device had nothing to do, between two steps."""
        return median(gaps(self.spans, self.first))

    @property
    def computes(self) -> float:
        """How long the device worked on a step."""
        return median(span.end - span.begin for span in of_device(self.spans, self.first))

    def in_time(self, scale: "Served") -> Drawing:
        """Some of its steps, to the scale of another run."""
        first = calmest(self.spans, round(SHOWN), self.first)
        return two_lanes(self.spans, first, SHOWN * (scale.computes + scale.idle))


def serve(engine: Engine, prompts: list[list[int]], clients: int = CLIENTS, tokens: int = WRITES) -> list[list[int]]:
    """The prompts, asked by so many clients at once, to the end: what each has got."""
    requests = [ask(engine, prompts[i % len(prompts)], tokens, stream=True) for i in range(clients)]
    finish(engine)
    return [request.output_ids for request in requests]


def clocked(engine: Engine, prompts: list[list[int]], **first: Any) -> Served:
    """The same with a clock for the host and one for the device. first: settings that the first client alone has."""
    clock = LoopClock(engine.device)
    with listen(LoopClock.PROBES, clock.note):
        if first:
            ask(engine, prompts[0], WRITES, stream=True, **first)
        tokens = serve(engine, prompts, CLIENTS - bool(first))
    return Served(tokens, clock.spans())


def timed(engine: Engine, prompts: list[list[int]]) -> Served:
    """The same with nobody listening: how long all of it takes."""
    start = time.perf_counter()
    tokens = serve(engine, prompts)
    return Served(tokens, seconds=time.perf_counter() - start)


def order_of_work(engine: Engine, prompt_ids: list[int], tokens: int, **wanted: Any) -> list[str]:
    """What the host does for one request: launches and reads, with the steps' numbers."""
    zero = engine.scheduler.num_steps
    order: list[str] = []

    def note(event: Event) -> None:
        order.append(f"{'launch' if event.name == 'overlap.launch' else 'read'} {event.plan.step - zero}")

    ask(engine, prompt_ids, tokens, stream=True, **wanted)
    with listen(["overlap.launch", "engine.step"], note):
        finish(engine)
    return order
