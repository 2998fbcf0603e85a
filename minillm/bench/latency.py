"""How long a request waits: for its first token, between tokens, and for all of them, as requests come over time.

They come in one of two ways. A given number is under way at any time, and whoever ends makes room for the next; or
they come at random moments, so many a second on average, whether the engine keeps up or not (a Poisson process: what
the users of a server do). In the second way a request's time begins when it comes, so that queueing shows.
"""

import gc
import random
import time
from collections import deque
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any

from minillm.bench.checkpoints import say
from minillm.bench.settings import check_seats
from minillm.bench.throughput import at_share
from minillm.bench.traffic import Traffic, same
from minillm.engine.engine import Engine
from minillm.request import Request

SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Load:
    """How requests come: ``concurrency`` of them under way at any time, or ``rate`` a second on average."""

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        return f"{self.rate:g}/s" if self.rate else f"{self.concurrency} at once"

    def arrivals(self, requests: int, seed: int) -> list[float] | None:
        """When each comes, in seconds; None is as soon as there is room. The same for the same seed."""
        if self.rate is None:
            return None
        draw = random.Random(seed)
        gaps = [0.0, *(draw.expovariate(self.rate) for _ in range(requests - 1))]
        return list(accumulate(gaps))


@dataclass
class Latency:
    """One prompt length under one load. Each of ``*_ms``: what 50, 90 and 99 of a hundred stay below.

    ttft_ms: to the first token. itl_ms: between two tokens. total_ms: to the last one.
    """

    prompt_len: int
    output_len: int
    load: Load
    requests: int
    seconds: float
    tokens_per_s: float
    ttft_ms: tuple[float, ...]
    itl_ms: tuple[float, ...]
    total_ms: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Timed:
    """A request, when it came, and when it got each of its tokens."""

    request: Request
    came: float
    times: list[float]


def measure_latency(
    engine: Engine, prompt_lens: list[int], loads: list[Load], requests: int, output_len: int, seed: int = 0
) -> list[Latency]:
    """Every prompt length under every load, each after a short run that warms up."""
    check_seats(engine, max(load.concurrency or 1 for load in loads))
    results = []
    for prompt_len in prompt_lens:
        for load in loads:
            count = max(requests, 2 * (load.concurrency or 1))
            work = same(f"{prompt_len} tokens", count, prompt_len, output_len).within(engine.model_config.vocab_size)
            most = load.concurrency or count
            few = min(most, engine.scheduler.num_seats)
            serve_over_time(engine, Traffic(work.name, work.prompts[:few], [min(4, output_len)] * few), few, None)
            gc.collect()
            seconds, timed = serve_over_time(engine, work, most, load.arrivals(count, seed))
            results.append(summary(prompt_len, output_len, load, seconds, timed))
            say(f"prompts of {work.name}, {load}: {seconds:.2f} s")
    return results


def serve_over_time(
    engine: Engine, work: Traffic, most: int, arrivals: list[float] | None
) -> tuple[float, list[Timed]]:
    """Run the work with at most ``most`` requests under way, each from its arrival on. The seconds it took, and the
    requests with their times. Tokens are looked for after each step, in the engine's books."""
    to_come = deque(zip(work.prompts, work.params(), arrivals or [0.0] * len(work.prompts)))
    under_way: list[Timed] = []
    done: list[Timed] = []
    start = time.perf_counter()
    while to_come or under_way:
        now = time.perf_counter() - start
        while to_come and to_come[0][2] <= now and len(under_way) < most:
            prompt, params, arrival = to_come.popleft()
            under_way.append(Timed(engine.add_request(prompt, params), arrival if arrivals else now, []))
        if not under_way:
            time.sleep(max(to_come[0][2] - now, 0))
            continue
        engine.step()
        now = time.perf_counter() - start
        for one in under_way:
            if len(one.request.output_ids) > len(one.times):
                one.times.append(now)
        done += [one for one in under_way if one.request.finished]
        under_way = [one for one in under_way if not one.request.finished]
    while engine.has_requests:  # rows of requests that have ended, and were in the next step already
        engine.step()
    return time.perf_counter() - start, done


def summary(prompt_len: int, output_len: int, load: Load, seconds: float, timed: list[Timed]) -> Latency:
    return Latency(
        prompt_len, output_len, load, len(timed), seconds, sum(len(one.times) for one in timed) / seconds,
        ttft_ms=shares([one.times[0] - one.came for one in timed]),
        itl_ms=shares([b - a for one in timed for a, b in pairwise(one.times)]),
        total_ms=shares([one.times[-1] - one.came for one in timed]),
    )  # fmt: skip


def shares(seconds: list[float]) -> tuple[float, ...]:
    """Milliseconds that 50, 90 and 99 of a hundred stay below; zeros if there are none."""
    return tuple(at_share(seconds, share) * 1e3 for share in SHARES) if seconds else (0.0,) * len(SHARES)
