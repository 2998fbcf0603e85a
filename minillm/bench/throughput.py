"""How fast the engine serves a workload: all requests there from the beginning, none waits for its answer's text."""

import gc
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch

from minillm.bench.checkpoints import say
from minillm.bench.traffic import Traffic
from minillm.engine.engine import Engine


@dataclass
class Throughput:
    """The best of some runs.

    tokens_per_s: generated tokens. ttft_ms: time to first token, and itl_ms: between tokens, the middle and the
    99th of a hundred. gb_per_s: weights once a step and each live token's keys and values once a decode step, by the
    whole time, prefill included. copy_gb_per_s: what copying a large tensor reads and writes on this device.
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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(model: str, work: Traffic, settings: dict[str, Any], rounds: int) -> Throughput:
    """Make the engine, run the workload once to warm up and ``rounds`` times for the record."""
    start = time.perf_counter()
    from minillm.config import EngineConfig

    make_room()
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
    config, dtype = engine.model_config, engine.dtype
    read = best.steps * engine.memory.weights + work.tokens_looked_at * config.kv_bytes_per_token(dtype.itemsize)
    return Throughput(
        traffic=work.name,
        model=model,
        device=device_name(engine.device),
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


def make_room() -> None:
    """Let go of an earlier engine's memory: it refers to itself in places, so only the collector finds it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass
class Run:
    """One run: how long, how many steps, and when each request got its tokens, from the beginning on."""

    seconds: float
    steps: int
    times: dict[int, list[float]]


def serve(engine: Engine, work: Traffic) -> Run:
    """Add all requests and step until they are done. Tokens are counted after each step, from the engine's books."""
    requests = [engine.add_request(prompt, params) for prompt, params in zip(work.prompts, work.params())]
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
    return Run(time.perf_counter() - start, steps, times)


def spread(seconds: list[float]) -> tuple[float, float]:
    """The middle one and the 99th of a hundred, in milliseconds."""
    if not seconds:
        return 0.0, 0.0
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2] * 1e3, ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)] * 1e3


def copy_speed(device: torch.device) -> float:
    """GB/s at which the device copies a tensor too large for its caches: bytes read and written."""
    size = 2**31 if device.type == "cuda" else 2**28
    source = torch.ones(size // 4, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(6):
        _wait(device)
        start = time.perf_counter()
        target.copy_(source)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size / best / 1e9


def device_name(device: torch.device) -> str:
    from minillm.bench.report import cpu_name

    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
