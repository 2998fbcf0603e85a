"""How fast the engine serves a workload: all requests there from the beginning, none waits for its answer's text."""

import gc
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from minillm.bench.checkpoints import say
from minillm.bench.peers import PeerResult, measure_peer
from minillm.bench.traffic import TEMPERATURE, Traffic
from minillm.debug.device_speed import copy_speed, name_of
from minillm.debug.profiler import profiled
from minillm.debug.views.profile_table import show_profile
from minillm.engine.engine import Engine
from minillm.layers.embedding import LMHead


@dataclass
class Throughput:
    """The best of some runs.

    tokens_per_s: generated tokens. ttft_ms: time to first token, and itl_ms: between tokens, the middle and the
    99th of a hundred. gb_per_s: weights once a step and each live token's keys and values once a decode step, by the
    whole time, prefill included. copy_gb_per_s: what copying a large tensor reads and writes on this device.
    peer: another engine on the same work, if one was asked for.
    """

    traffic: str
    model: str
    device: str
    seconds: float
    tokens_per_s: float
    prompt_tokens: int
    generated: int
    steps: int
    step_ms: float
    ttft_ms: tuple[float, float]
    itl_ms: tuple[float, float]
    gb_per_s: float
    copy_gb_per_s: float
    start_up_s: float
    peer: PeerResult | None = None

    @property
    def of_copy(self) -> float:
        """The share of the limit that is reached: traffic of memory against that of copying."""
        return self.gb_per_s / self.copy_gb_per_s

    @property
    def limit_tokens_per_s(self) -> float:
        """Tokens a second in as many steps, if memory moved them as fast as it copies, and that were all."""
        return self.tokens_per_s / self.of_copy

    @property
    def ratio(self) -> float | None:
        return self.tokens_per_s / self.peer.tokens_per_s if self.peer else None

    def as_dict(self) -> dict[str, Any]:
        more = {"of_copy": self.of_copy, "limit_tokens_per_s": self.limit_tokens_per_s, "ratio": self.ratio}
        return {**asdict(self), **more}


def measure_beside(
    model: str,
    work: Traffic,
    settings: dict[str, Any],
    rounds: int,
    peer: str | None = None,
    profile: str | None = None,
) -> Throughput:
    """Measure ours and then, if asked for, the other engine: both at once would not fit into a GPU's memory."""
    found = measure(model, work, settings, rounds, profile)
    if peer:
        found.peer = measure_peer(peer, work, settings, rounds)
    return found


def measure(model: str, work: Traffic, settings: dict[str, Any], rounds: int, profile: str | None = None) -> Throughput:
    """Make the engine, run the workload once to warm up and ``rounds`` times for the record; once more for a
    ``profile``."""
    start = time.perf_counter()
    from minillm.config import EngineConfig

    engine = Engine(EngineConfig.from_settings(**settings))
    start_up = time.perf_counter() - start
    say(f"{model}: ready after {start_up:.1f} s")
    work = work.within(engine.model_config.vocab_size)
    best: Run | None = None
    for turn in range(rounds + 1):
        gc.collect()
        run = serve(engine, work)
        what = f"round {turn} of {rounds}" if turn else "warm-up"
        say(f"{work.name}: {what}: {run.seconds:.2f} s, {work.num_generated / run.seconds:,.0f} tokens/s")
        if turn and (best is None or run.seconds < best.seconds):
            best = run
    assert best is not None
    if profile:
        with profiled(engine, profile, show_profile, work.name):
            serve(engine, work)
    kv = engine.runner.kv_cache.spec
    read = best.steps * weights_read(engine) + work.tokens_looked_at * kv.bytes_per_token
    return Throughput(
        traffic=work.name,
        model=model,
        device=name_of(engine.device),
        seconds=best.seconds,
        tokens_per_s=work.num_generated / best.seconds,
        prompt_tokens=work.num_prompt_tokens,
        generated=work.num_generated,
        steps=best.steps,
        step_ms=best.seconds / best.steps * 1e3,
        ttft_ms=spread([times[0] for times in best.times.values()]),
        itl_ms=spread([b - a for times in best.times.values() for a, b in pairwise(times)]),
        gb_per_s=read / best.seconds / 1e9,
        copy_gb_per_s=copy_speed(engine.device),
        start_up_s=start_up,
    )


def weights_read(engine: Engine) -> int:
    """Bytes of weights that a step reads. Of an embedding only a few rows are; where the head has no table of its own,
    plain or packed, it reads that one."""
    config, head = engine.model_config, getattr(engine.model, "lm_head", None)
    if isinstance(head, LMHead) and head.reads_table:
        return engine.memory.weights
    return engine.memory.weights - config.vocab_size * config.hidden_size * engine.dtype.itemsize


@dataclass
class Run:
    """One run: how long, how many steps, when each request got its tokens, from the beginning on, and which."""

    seconds: float
    steps: int
    times: dict[int, list[float]]
    tokens: list[list[int]]


def serve(engine: Engine, work: Traffic, temperature: float = TEMPERATURE) -> Run:
    """Add all requests and step until they are done. Tokens are counted after each step, from the engine's books."""
    requests = [engine.add_request(prompt, params) for prompt, params in zip(work.prompts, work.params(temperature))]
    seen = dict.fromkeys((request.id for request in requests), 0)
    times: dict[int, list[float]] = {request.id: [] for request in requests}
    steps, start = 0, time.perf_counter()
    open_requests = requests
    while engine.has_requests:
        engine.step()
        steps += 1
        now = time.perf_counter() - start
        for request in open_requests:
            if len(request.output_ids) > seen[request.id]:
                seen[request.id] = len(request.output_ids)
                times[request.id].append(now)
        if steps % 64 == 0:
            open_requests = [request for request in open_requests if not request.finished]
    return Run(time.perf_counter() - start, steps, times, [request.output_ids for request in requests])


def spread(seconds: list[float]) -> tuple[float, float]:
    """The middle one and the 99th of a hundred, in milliseconds."""
    if not seconds:
        return 0.0, 0.0
    return at_share(seconds, 0.5) * 1e3, at_share(seconds, 0.99) * 1e3


def at_share(values: list[float], share: float) -> float:
    """The value that ``share`` of all values lie below: 0.5 is the middle one."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]
