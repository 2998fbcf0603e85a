"""Many requests in one cache: how many fit at once, what they use of what they hold, how fast all are served."""

import time
from dataclasses import dataclass

from minillm.debug.views.waste import waste
from minillm.engine.engine import Engine
from minillm.kvcache.pages import pages_for
from minillm.learn.asking import answered, ask
from minillm.learn.example import running_example

REQUESTS, TOKENS = 16, 12  # so many, and what each of them writes


@dataclass
class FullHouse:
    """at_once, fullest: of the moment when most were running; entries: of a page table at its end, on average."""

    at_once: int
    fullest: dict[str, int]
    steps: int
    seconds: float
    entries: float
    tokens: list[list[int]]

    @property
    def share(self) -> float:
        """Slots used, of those held, in percent."""
        return 100 * self.fullest["used"] / (self.fullest["used"] + self.fullest["reserved"])

    @property
    def empty(self) -> float:
        """Slots that a request holds and does not use."""
        return self.fullest["reserved"] / self.at_once

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return sum(map(len, self.tokens)) / self.seconds


def serve(engine: Engine, wanted: int = REQUESTS) -> FullHouse:
    """Serve the running example over and over, to so many requests: the fullest moment, and the whole."""
    prompts = list(running_example(engine.tokenizer).values())
    answered(engine, prompts[0], 2)  # warm up
    requests = [ask(engine, prompts[i % 4], TOKENS) for i in range(wanted)]
    at_once, fullest, steps, start = 0, {}, 0, time.perf_counter()
    while engine.has_requests:
        engine.step()
        steps += 1
        if len(engine.scheduler.running) >= max(at_once, 1):
            at_once, fullest = len(engine.scheduler.running), waste(engine.scheduler.running, engine.pool)
    seconds = time.perf_counter() - start
    entries = sum(pages_for(request.num_tokens - 1, engine.pool.page_size) for request in requests) / len(requests)
    return FullHouse(at_once, fullest, steps, seconds, entries, [request.output_ids for request in requests])
