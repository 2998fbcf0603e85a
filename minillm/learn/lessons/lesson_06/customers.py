"""Customers whose prompts begin alike: what was found, how long each waited for its first token."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from minillm.debug.views.compare import before_after
from minillm.debug.views.drawing import Drawing
from minillm.engine.engine import Engine
from minillm.learn.asking import answered, ask
from minillm.learn.example import QUESTION, TALK, conversation
from minillm.request import Request
from minillm.text.tokenizer import Tokenizer


@dataclass
class Served:
    """One run. waits: until each first token, in seconds; hit_rate in percent."""

    computed: int
    hit_rate: float
    waits: list[float]
    seconds: float
    tokens: list[list[int]]


def prompts(tokenizer: Tokenizer, questions: int) -> list[list[int]]:
    """Three sets of instructions, each with some questions: what a server sees that has three customers."""
    talks = [TALK[i:] + TALK[:i] for i in range(3)]
    lasts = [QUESTION, *(asked for asked, _ in TALK)][:questions]
    return [conversation(tokenizer, talk, last) for last in lasts for talk in talks]


def serve(engine: Engine, asked_for: list[list[int]], tokens: int) -> Served:
    """One more request before each step, beginning with an empty cache, until all are done."""
    engine.flush_cache()
    stats = engine.scheduler.cache.stats
    asked, found = stats.query_tokens, stats.hit_tokens
    requests: list[Request] = []
    born: list[float] = []
    waits: dict[int, float] = {}
    start = time.perf_counter()
    while len(requests) < len(asked_for) or engine.has_requests:
        if len(requests) < len(asked_for):
            requests.append(ask(engine, asked_for[len(requests)], tokens))
            born.append(time.perf_counter())
        engine.step()
        for i, request in enumerate(requests):
            if request.output_ids and i not in waits:
                waits[i] = time.perf_counter() - born[i]
    seconds = time.perf_counter() - start
    asked, found = stats.query_tokens - asked, stats.hit_tokens - found
    made = [request.output_ids for request in requests]
    return Served(asked - found, 100 * found / asked, list(waits.values()), seconds, made)


def first_tokens(
    engine: Engine, known: list[int], alike: list[int], rounds: Iterable[int]
) -> tuple[list[float], list[float]]:
    """Seconds until the first token in each round: of one prompt when the tree is empty, and of one that begins like it
    right after. Each comes alone, and one token is all that it wants."""
    empty: list[float] = []
    cached: list[float] = []
    for _ in rounds:
        engine.flush_cache()
        for prompt_ids, seconds in ((known, empty), (alike, cached)):
            start = time.perf_counter()
            answered(engine, prompt_ids, 1)
            seconds.append(time.perf_counter() - start)
    return empty, cached


def in_a_table(runs: list[list[Served]]) -> Drawing:
    """Rounds of an engine without a prefix cache and of one with it."""

    def row(name: str, measure: Callable[[Served], float], unit: str, better: str) -> tuple:
        return name, *([measure(run[side]) for run in runs] for side in (0, 1)), unit, better

    rows = [
        row("prompt tokens computed", lambda run: run.computed, "", "lower"),
        row("hit rate", lambda run: run.hit_rate, "%", "higher"),
        row("time to first token, median", lambda run: median(run.waits), "s", "lower"),
        row("the longest such time", lambda run: max(run.waits), "s", "lower"),
        row("time for all", lambda run: run.seconds, "s", "lower"),
    ]
    return before_after(rows, before="none", after="radix")
