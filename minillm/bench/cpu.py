"""This engine beside Hugging Face's ``generate`` on a CPU: the same weights, prompts, dtype and threads, taking turns.

Times of a shared machine drift, so the two alternate within one run, and what counts is the ratio.
"""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from minillm.bench.checkpoints import Checkpoints, say
from minillm.bench.peers import load_transformers
from minillm.bench.workloads import Workload
from minillm.layers.build import LayerBuild
from minillm.llm import LLM
from minillm.model_config import ModelConfig
from minillm.models.weights import build_model
from minillm.request import SamplingParams

Generate = Callable[[], list[list[int]]]  # runs a workload once; the tokens of each request


@dataclass
class Side:
    """What one engine did: the best round and the middle one. A step makes one token for every request."""

    best_s: float
    median_s: float
    tokens_per_s: float  # of the best round
    step_ms: float
    weight_gb_per_s: float  # weights read in a step, by the step's time


@dataclass
class Comparison:
    """One workload, measured. ``same_tokens`` is the share of generated tokens that are the same in both."""

    workload: Workload
    minillm: Side
    transformers: Side
    same_tokens: float

    @property
    def ratio(self) -> float:
        return self.minillm.tokens_per_s / self.transformers.tokens_per_s

    @property
    def median_ratio(self) -> float:
        return self.transformers.median_s / self.minillm.median_s

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "median_ratio": self.median_ratio}


def compare_all(workloads: list[Workload], rounds: int, bundled: str) -> list[Comparison]:
    """Measure each in turn. ``bundled``: what stands for the bundled model (its name, or another folder)."""
    results = []
    with Checkpoints(bundled) as checkpoints:
        for workload in workloads:
            results.append(compare(workload, checkpoints.folder(workload), rounds))
            gc.collect()  # one model's memory goes before the next one comes
    return results


def compare(workload: Workload, folder: Path, rounds: int) -> Comparison:
    """Warm both up, then let them take turns."""
    say(f"{workload.name}: loading")
    ours, weights_read = load_minillm(workload, folder)
    theirs = load_theirs(workload, folder)
    say(f"{workload.name}: warm-up")
    same = agreement(ours(), theirs())
    gc.collect()
    gc.freeze()  # what both have loaded is not searched for garbage again and again while one of them is timed
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for side, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            run()
            times[side].append(time.perf_counter() - start)
        say(f"{workload.name}: round {turn + 1} of {rounds}: {times[0][-1]:.2f} s, transformers {times[1][-1]:.2f} s")
    gc.unfreeze()
    mine, other = (summary(workload, side, weights_read) for side in times)
    return Comparison(workload, mine, other, same)


def load_minillm(workload: Workload, folder: Path) -> tuple[Generate, int]:
    """The workload in this engine, and the bytes of weights that one of its steps reads."""
    llm = LLM(str(folder), dtype=workload.dtype, device="cpu")
    prompts = workload.prompts(llm.engine.model_config.vocab_size)
    params = SamplingParams(temperature=0, max_tokens=workload.output_len, ignore_eos=True)

    def run() -> list[list[int]]:
        return [output.outputs[0].token_ids for output in llm.generate(prompts, params, use_tqdm=False)]

    return run, bytes_per_step(folder, workload.dtype)


def load_theirs(workload: Workload, folder: Path) -> Generate:
    """The workload in Hugging Face's generate, as it comes."""
    generate = load_transformers(folder, torch.device("cpu"), getattr(torch, workload.dtype))
    prompts = workload.prompts(ModelConfig.from_folder(folder).vocab_size)
    return lambda: generate(prompts, [workload.output_len] * workload.requests, 0)


def bytes_per_step(folder: Path, dtype: str) -> int:
    """Every weight is read once a step, but of an embedding that is not the head as well only a few rows are."""
    config = ModelConfig.from_folder(folder)
    model = build_model(config, LayerBuild(getattr(torch, dtype)))
    table = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return (sum(p.numel() for p in model.parameters()) - table) * getattr(torch, dtype).itemsize


def agreement(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """The share of tokens that are equal, place by place. A first difference usually changes all that follow."""
    pairs = [pair for mine, other in zip(ours, theirs) for pair in zip(mine, other)]
    return sum(a == b for a, b in pairs) / len(pairs)


def summary(workload: Workload, times: list[float], weights_read: int) -> Side:
    best = min(times)
    step = best / workload.output_len
    return Side(best, statistics.median(times), workload.num_generated / best, step * 1e3, weights_read / step / 1e9)
