"""Requests with short prompts that grow, in a cache that may be too small for them."""

import time
from dataclasses import dataclass

from minillm.engine.engine import Engine
from minillm.kvcache.pages import pages_for
from minillm.learn.asking import ask, finish
from minillm.probe import listen
from minillm.request import Request


@dataclass
class Grown:
    """One run: what it took, and what it made."""

    preemptions: int
    steps: int
    computed: int
    seconds: float
    tokens: list[list[int]]


@dataclass
class Writers:
    """Prompts, used in turn, and the tokens that each request wants to write."""

    prompts: list[list[int]]
    wants: tuple[int, ...]

    @property
    def few_pages(self) -> int:
        """So many pages of 16 that they run out after some thirty tokens of each request."""
        return sum(pages_for(len(self._prompt(i)) + 30, 16) for i in range(len(self.wants)))

    def add(self, engine: Engine) -> list[Request]:
        return [ask(engine, self._prompt(i), tokens) for i, tokens in enumerate(self.wants)]

    def grow(self, engine: Engine) -> Grown:
        """Let them run to their ends, and count."""
        requests, computed, before = self.add(engine), [], engine.scheduler.num_preemptions
        start = time.perf_counter()
        with listen("scheduler.plan", lambda event: computed.append(event.plan.num_tokens)):
            finish(engine)
        seconds, preemptions = time.perf_counter() - start, engine.scheduler.num_preemptions - before
        tokens = [request.output_ids for request in requests]
        return Grown(preemptions, len(computed), sum(computed), seconds, tokens)

    def _prompt(self, i: int) -> list[int]:
        return self.prompts[i % len(self.prompts)]
