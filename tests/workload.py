"""Workloads: requests that arrive, and perhaps are aborted, at certain steps, and an engine driven through them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tiny import Oracle, hf_logits

from minillm.config import EngineConfig
from minillm.debug.probes import listen
from minillm.engine.engine import Engine
from minillm.engine.sampler import SamplingBatch, sample
from minillm.request import Request, RequestOutput, SamplingParams
from minillm.scheduler.plan import StepPlan

LOGITS_TOLERANCE = 1e-4  # how far ours may be from Hugging Face's
MOST_STEPS = 5000  # more than any workload here needs: an engine that makes no progress fails instead of hanging


@dataclass(frozen=True)
class Job:
    """One request of a workload: it arrives before step ``arrives`` and is aborted before step ``aborted``, if at
    all."""

    prompt: tuple[int, ...]
    max_tokens: int = 8
    arrives: int = 0
    aborted: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[int, ...] = ()
    priority: int = 0
    salt: str | None = None

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            max_tokens=self.max_tokens,
            stop_token_ids=list(self.stop),
            ignore_eos=True,
        )

    @property
    def longest(self) -> int:
        """The most tokens that it can have in the cache."""
        return len(self.prompt) + self.max_tokens - 1


@dataclass
class Run:
    """What came of a workload: each job's final output and every plan."""

    finals: dict[int, RequestOutput]
    plans: list[StepPlan] = field(default_factory=list)

    def tokens(self, index: int) -> list[int]:
        return self.finals[index].outputs[0].token_ids

    def reason(self, index: int) -> str | None:
        return self.finals[index].outputs[0].finish_reason


def make_engine(folder: Path, **settings: Any) -> Engine:
    """An engine with a small cache, so that making one costs little."""
    size = {} if {"num_pages", "max_cached_tokens", "kv_cache_memory_bytes"} & set(settings) else {"num_pages": 64}
    return Engine(EngineConfig.from_settings(model=str(folder), **{**size, **settings}))


def run_jobs(engine: Engine, jobs: Sequence[Job], after_step: Callable[[], None] | None = None) -> Run:
    """Drive the engine until every job has its final output; the books are checked after every step."""
    requests: dict[int, Request] = {}
    index_of: dict[int, int] = {}
    run = Run({})

    def take(output: RequestOutput) -> None:
        index = index_of[output.request_id]
        assert output.finished
        assert index not in run.finals, f"job {index} got two final outputs"
        run.finals[index] = output

    with listen("scheduler.plan", lambda event: run.plans.append(event.plan)):
        for step in range(MOST_STEPS):
            for index, job in enumerate(jobs):
                if job.arrives == step:
                    requests[index] = engine.add_request(
                        {"prompt_token_ids": list(job.prompt), "cache_salt": job.salt},
                        job.params,
                        priority=job.priority,
                    )
                    index_of[requests[index].id] = index
            for index, job in enumerate(jobs):
                if job.aborted is not None and index in requests and step >= max(job.aborted, job.arrives):
                    output = engine.abort(requests[index].id)
                    assert (output is None) == (index in run.finals), (
                        f"job {index}: an abort gives the one final output"
                    )
                    if output is not None:
                        take(output)
            for output in engine.step():
                take(output)
            engine.scheduler.check()
            if after_step:
                after_step()
            if len(run.finals) == len(jobs):
                return run
    raise AssertionError(f"not done after {MOST_STEPS} steps: {engine.scheduler.running} {engine.scheduler.waiting}")


def assert_idle(engine: Engine) -> None:
    """Nothing runs, and nothing is lost: every page and every seat is free, no request is remembered.

    What the prefix cache keeps may be forgotten now, and is."""
    engine.scheduler.check()
    assert not engine.has_requests
    assert engine.pool.num_used == engine.scheduler.cache.num_evictable
    engine.flush_cache()
    engine.scheduler.check()
    assert engine.pool.num_used == 0, engine.pool
    assert sorted(engine.pool.free_pages) == list(range(engine.pool.num_pages))
    assert sorted(engine.scheduler.free_seats) == list(range(len(engine.scheduler.free_seats)))
    assert not engine._requests and not engine._detokenizers


class Alone:
    """Each job's tokens when it is alone in a plain engine: greedy ones are Hugging Face's, others are worked out
    here."""

    def __init__(self, oracle: Oracle, **settings: Any) -> None:
        self.oracle = oracle
        self.settings = settings
        self.seen: dict[Job, list[int]] = {}

    def tokens(self, job: Job) -> list[int]:
        if job.temperature == 0:
            return self.oracle.greedy(list(job.prompt), job.max_tokens, job.stop)
        alone = Job(**{**vars(job), "arrives": 0, "aborted": None})
        if alone not in self.seen:
            engine = make_engine(self.oracle.folder, **self.settings)
            self.seen[alone] = run_jobs(engine, [alone]).tokens(0)
        return self.seen[alone]

    def agree(self, job: Job, got: list[int]) -> bool:
        """Whether these are the job's first tokens. A drawn token may differ where rounding decides between two."""
        expected = self.tokens(job)
        if got == expected[: len(got)]:
            return True
        first = next(i for i, pair in enumerate(zip(got, expected)) if pair[0] != pair[1])
        return job.temperature > 0 and {got[first], expected[first]} <= self._within_tolerance(job, expected[:first])

    def _within_tolerance(self, job: Job, before: list[int]) -> set[int]:
        """The tokens that can be drawn next from logits as near to Hugging Face's as ours must be."""
        N, ids = 4000, [*job.prompt, *before]
        logits = hf_logits(self.oracle.model, ids)[-1].repeat(N, 1)
        logits += (torch.rand(logits.shape) * 2 - 1) * LOGITS_TOLERANCE
        settings = SamplingBatch(
            temperature=torch.full((N,), job.temperature),
            top_k=torch.full((N,), job.top_k or logits.shape[1]),
            top_p=torch.full((N,), job.top_p),
            seeds=torch.full((N,), (job.seed or 0) % 2**63),
            positions=torch.full((N,), len(ids)),
            any_filter=True,
            any_greedy=False,
        )
        return set(sample(logits, settings).tolist())
