"""Up the ladder: an engine for every rung, one after the other, on the same requests."""

import gc
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import torch

from minillm.bench.checkpoints import say
from minillm.bench.cpu import agreement
from minillm.bench.ladder import Ground, rungs, turned_on
from minillm.bench.throughput import Run, at_share, serve
from minillm.bench.traffic import Traffic
from minillm.config import EngineConfig
from minillm.engine.engine import Engine


@dataclass
class Climbed:
    """A rung, measured, or why it was not. ``before`` and ``first``: its speed, as a multiple of the measured rung
    below and of the first one. same_tokens: the share of generated tokens that are those of the first rung."""

    name: str
    turned_on: str
    brings: str = ""
    skipped: str | None = None
    tokens_per_s: float = 0.0
    before: float = 1.0
    first: float = 1.0
    ttft_ms: float = 0.0
    itl_p99_ms: float = 0.0
    same_tokens: float = 1.0
    settings: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def climb(ground: Ground, names: list[str], rounds: int) -> list[Climbed]:
    """Measure the named rungs from the lowest up, ``rounds`` times over: a slow minute of the machine then is not one
    rung's alone. Of each figure the best counts."""
    chosen = [(rung, settings, why_not) for rung, settings, why_not in rungs(ground) if rung.name in names]
    results = [
        Climbed(rung.name, turned_on(rung, ground), rung.brings, why_not, settings=settings)
        for rung, settings, why_not in chosen
    ]
    runs: dict[str, list[Run]] = {}
    for turn in range(rounds):
        for (rung, settings, _), result in zip(chosen, results):
            if result.skipped:
                continue
            run, result.skipped = measure_rung(ground, settings, records="enforce_eager" in rung.settings)
            if run:
                runs.setdefault(result.name, []).append(run)
            speed = f"{ground.work.num_generated / run.seconds:,.0f} tokens/s" if run else f"left out, {result.skipped}"
            say(f"round {turn + 1} of {rounds}: {result.name}: {speed}")
    measured = [result for result in results if result.name in runs]
    for result in measured:
        take(result, runs[result.name], ground.work)
        result.same_tokens = agreement(runs[result.name][0].tokens, runs[measured[0].name][0].tokens)
        result.first = result.tokens_per_s / measured[0].tokens_per_s
    for below, result in pairwise(measured):
        result.before = result.tokens_per_s / below.tokens_per_s
    return results


def measure_rung(ground: Ground, settings: dict[str, Any], records: bool) -> tuple[Run | None, str | None]:
    """An engine with these settings: a little to warm up, then the work. What it took, or why it cannot be had.

    records: whether this is the rung of CUDA graphs, which some models cannot have; those above it do without then.
    """
    engine = Engine(EngineConfig.from_settings(**settings))
    try:
        config = engine.config
        if records and not config.enforce_eager and engine.runner.graphs is None:
            return None, engine.worker.eager
        work = ground.work.within(engine.model_config.vocab_size)
        few = min(config.max_num_seqs, len(work.prompts))
        serve(engine, Traffic(work.name, work.prompts[:few], [2] * few), temperature=0)
        engine.flush_cache()
        gc.collect()
        return serve(engine, work, temperature=0), None
    finally:
        del engine
        gc.collect()
        if ground.device.type == "cuda":
            torch.cuda.empty_cache()  # for the next rung's engine


def take(result: Climbed, runs: list[Run], work: Traffic) -> None:
    """Speed and times of some runs into a rung's result."""
    result.tokens_per_s = work.num_generated / min(run.seconds for run in runs)
    result.ttft_ms = min(at_share([times[0] for times in run.times.values()], 0.5) for run in runs) * 1e3
    result.itl_p99_ms = min(longest_gaps(run) for run in runs) * 1e3


def longest_gaps(run: Run) -> float:
    """The gap between two tokens that 99 of a hundred stay below, in seconds; 0 if there is none."""
    gaps = [b - a for times in run.times.values() for a, b in pairwise(times)]
    return at_share(gaps, 0.99) if gaps else 0.0
