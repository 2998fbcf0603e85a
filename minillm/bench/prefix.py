"""What the prefix cache saves where prompts begin alike, and what it costs where none do.

The same requests go through two engines, one without a prefix cache and one with it, taking turns; each round begins
with an empty cache. Times of a shared machine drift, so what counts is the ratio.
"""

import gc
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from minillm.bench.checkpoints import say
from minillm.engine.engine import Engine
from minillm.llm import LLM
from minillm.probe import Event, listen
from minillm.request import SamplingParams

CACHES = ("none", "radix")


@dataclass(frozen=True)
class PrefixWorkload:
    """``requests`` prompts: a system prompt, which several share, and a question of their own; greedy answers.

    systems: how many different system prompts there are; 0 gives each request one of its own, so nothing is shared.
    order: who comes after whom, "round robin" over the system prompts or "shuffled".
    """

    name: str
    systems: int
    order: str
    requests: int = 64
    system_len: int = 512
    question_len: int = 32
    output_len: int = 32

    def prompts(self, vocab_size: int, seed: int = 0) -> list[list[int]]:
        """The same for everyone who asks with the same seed. The first ids are left out: they are special tokens."""
        choose = random.Random(seed)

        def text(length: int) -> list[int]:
            return [choose.randrange(16, vocab_size) for _ in range(length)]

        systems = [text(self.system_len) for _ in range(self.systems or self.requests)]
        made = [systems[i % len(systems)] + text(self.question_len) for i in range(self.requests)]
        if self.order == "shuffled":
            choose.shuffle(made)
        return made


PREFIX = (
    PrefixWorkload("shared, round robin", systems=8, order="round robin"),
    PrefixWorkload("shared, shuffled", systems=8, order="shuffled"),
    PrefixWorkload("nothing shared", systems=0, order="round robin"),
)


@dataclass
class PrefixSide:
    """One engine's rounds. prefill: prompt tokens that were computed. first_token_s: the median over requests, of the
    best round. in_cache_s: spent inside the prefix cache's own functions, in one more round."""

    prefill: int
    hit_rate: float
    first_token_s: float
    seconds: list[float] = field(default_factory=list)
    in_cache_s: float = 0.0

    @property
    def best_s(self) -> float:
        return min(self.seconds)


@dataclass
class PrefixComparison:
    """One workload without and with the cache."""

    workload: PrefixWorkload
    none: PrefixSide
    radix: PrefixSide
    same_tokens: bool

    @property
    def fewer(self) -> float:
        """The share of prompt tokens that need not be computed any more."""
        return 1 - self.radix.prefill / self.none.prefill

    @property
    def ratio(self) -> float:
        return self.none.best_s / self.radix.best_s

    @property
    def median_ratio(self) -> float:
        return statistics.median(self.none.seconds) / statistics.median(self.radix.seconds)

    @property
    def cost(self) -> float:
        """The cache's own share of the time."""
        return self.radix.in_cache_s / self.radix.best_s

    def as_dict(self) -> dict[str, Any]:
        ratios = {"fewer": self.fewer, "ratio": self.ratio, "median_ratio": self.median_ratio, "cost": self.cost}
        return {**asdict(self), **ratios}


def compare_prefix(model: str, rounds: int, workloads: tuple[PrefixWorkload, ...] = PREFIX) -> list[PrefixComparison]:
    """Measure each workload in turn."""
    longest = max(one.system_len + one.question_len + one.output_len for one in workloads)
    tokens = max(one.requests for one in workloads) * (longest + 16)
    engines = {cache: LLM(model, device="cpu", prefix_cache=cache, max_cached_tokens=tokens).engine for cache in CACHES}
    return [compare(engines, workload, rounds) for workload in workloads]


def compare(engines: dict[str, Engine], workload: PrefixWorkload, rounds: int) -> PrefixComparison:
    sides: dict[str, PrefixSide] = {}
    tokens: dict[str, list[list[int]]] = {}
    prompts = workload.prompts(next(iter(engines.values())).model_config.vocab_size)
    for turn in range(rounds + 1):  # the first one warms up
        for cache, engine in engines.items():
            side, tokens[cache] = serve(engine, prompts, workload.output_len)
            if turn == 0:
                continue
            if cache in sides:
                side.seconds = [*sides[cache].seconds, *side.seconds]
                side.first_token_s = min(side.first_token_s, sides[cache].first_token_s)
            sides[cache] = side
        if turn:
            said = ", ".join(f"{cache} {side.seconds[-1]:.2f} s" for cache, side in sides.items())
            say(f"{workload.name}: round {turn} of {rounds}: {said}")
    with timed_cache(engines["radix"]) as spent:
        serve(engines["radix"], prompts, workload.output_len)
    sides["radix"].in_cache_s = spent["seconds"]
    return PrefixComparison(workload, sides["none"], sides["radix"], tokens["none"] == tokens["radix"])


def serve(engine: Engine, prompts: list[list[int]], output_len: int) -> tuple[PrefixSide, list[list[int]]]:
    """All at once, from an empty cache; what it took, and each request's tokens."""
    engine.flush_cache()
    params = SamplingParams(temperature=0, max_tokens=output_len, ignore_eos=True)
    requests = [engine.add_request(prompt_ids, params) for prompt_ids in prompts]
    found, first = 0, dict[int, float]()

    def hear(event: Event) -> None:
        nonlocal found
        if event.name == "scheduler.admit":
            found += event.request.num_computed
        else:
            first.setdefault(event.request.id, event.time)

    gc.collect()
    start = time.perf_counter()
    with listen(["scheduler.admit", "request.token"], hear):
        while engine.has_requests:
            engine.step()
    seconds = time.perf_counter() - start
    asked = sum(map(len, prompts))
    side = PrefixSide(asked - found, found / asked, statistics.median(first.values()) - start, [seconds])
    return side, [list(request.output_ids) for request in requests]


@contextmanager
def timed_cache(engine: Engine) -> Iterator[dict[str, float]]:
    """Inside, the time that the engine's prefix cache takes adds up."""
    cache, spent = engine.scheduler.cache, {"seconds": 0.0}
    names = ("match", "insert", "lock", "unlock", "evict")

    def timed(function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                spent["seconds"] += time.perf_counter() - start

        return run

    for name in names:
        setattr(cache, name, timed(getattr(cache, name)))
    try:
        yield spent
    finally:
        for name in names:
            delattr(cache, name)
