"""Requests that arrive while others run: who sat where, how long each waited, and what the scheduler said of it."""

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from minillm.debug.views.timeline import SeatLog
from minillm.engine.engine import Engine
from minillm.learn.asking import ask
from minillm.probe import Event, listen
from minillm.request import Request


class Job(NamedTuple):
    """A request to come: before which step, its prompt, and how many tokens it wants."""

    step: int
    prompt_ids: list[int]
    tokens: int


@dataclass
class Served:
    """One run: who sat where, what the scheduler said in each step, and what each request got and how long it waited.

    words: step -> request id -> what was decided about it. waits: until the first token, in seconds; wait_steps: the
    same in steps.
    """

    seats: SeatLog = field(default_factory=SeatLog)
    words: dict[int, dict[int, str]] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: list[list[int]] = field(default_factory=list)
    step_times: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    wait_steps: list[int] = field(default_factory=list)

    def note_words(self, event: Event) -> None:
        """What is decided about all that waited when the step began."""
        scheduler, said = event.scheduler, self.words.setdefault(event.scheduler.num_steps, {})
        if event.name == "scheduler.admit":
            said[event.request.id] = f"admitted: seat {scheduler.free_seats[-1]}, {event.count} tokens"
        else:
            left = scheduler.config.max_num_batched_tokens - event.plan.num_tokens
            said.update((request.id, scheduler.why(request, left)) for request in scheduler.waiting)

    @property
    def admitted(self) -> dict[int, int]:
        """How many were admitted in each step, as far as a probe told of it."""
        return {step: sum(w.startswith("admitted") for w in said.values()) for step, said in self.words.items()}

    @property
    def first_choice(self) -> int | None:
        """The first step, after the very first, in which some were admitted and some not."""
        for step, count in self.admitted.items():
            if step > 1 and 0 < count < len(self.words[step]):
                return step
        return None


def serve(engine: Engine, jobs: list[Job]) -> Served:
    """Step the engine while the jobs arrive, each before its step, until all are done."""
    served, clock, coming = Served(), 0, list(jobs)
    requests: list[Request] = []
    born: list[tuple[float, int]] = []
    first: dict[int, tuple[float, int]] = {}
    start = time.perf_counter()
    with (
        listen("scheduler.plan", served.seats.note),
        listen(["scheduler.admit", "scheduler.plan"], served.note_words),
    ):
        while coming or engine.has_requests:
            while coming and coming[0].step <= clock:
                job = coming.pop(0)
                requests.append(ask(engine, job.prompt_ids, job.tokens))
                born.append((time.perf_counter(), clock))
            began = time.perf_counter()
            engine.step()
            served.step_times.append(time.perf_counter() - began)
            clock += 1
            for i, request in enumerate(requests):
                if request.output_ids and i not in first:
                    first[i] = (time.perf_counter(), clock)
    served.seconds = time.perf_counter() - start
    served.tokens = [request.output_ids for request in requests]
    served.waits = [first[i][0] - born[i][0] for i in first]
    served.wait_steps = [first[i][1] - born[i][1] for i in first]
    return served
