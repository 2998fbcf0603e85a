"""Workloads: requests that arrive, and perhaps are aborted, at certain steps, and an engine driven through them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tiny import Oracle, hf_logits
from torch import Tensor

from minillm.config import EngineConfig
from minillm.engine.engine import Engine
from minillm.probe import listen
from minillm.request import Request, RequestOutput, SamplingParams
from minillm.sampling.sampler import SamplingBatch, sample
from minillm.scheduler.plan import StepPlan
from minillm.text.detokenizer import INCOMPLETE
from minillm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

LOGITS_TOLERANCE = 1e-4  # how far ours may be from Hugging Face's
EOS = 1  # the tiny checkpoints' end token
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
    min_p: float = 0.0
    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    stop_strings: tuple[str, ...] = ()
    logprobs: int | None = None
    n: int = 1

    @property
    def edited(self) -> bool:
        """Whether its logits are changed before a token is chosen."""
        penalised = self.repetition != 1 or bool(self.frequency or self.presence)
        return penalised or bool(self.bias or self.min_tokens)

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
            min_p=self.min_p,
            repetition_penalty=self.repetition,
            frequency_penalty=self.frequency,
            presence_penalty=self.presence,
            logit_bias=dict(self.bias),
            min_tokens=self.min_tokens,
            stop=list(self.stop_strings),
            logprobs=self.logprobs,
            n=self.n,
        )

    @property
    def singles(self) -> list["Job"]:
        """Its answers as jobs of their own: the same but for the seed."""
        return [replace(self, n=1, seed=None if self.seed is None else self.seed + i) for i in range(self.n)]

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
    assert not engine._answers and not engine.core.grammars.active


class Alone:
    """Each job's tokens when it is alone in a plain engine: greedy ones are Hugging Face's, others are worked out
    here."""

    def __init__(self, oracle: Oracle, **settings: Any) -> None:
        self.oracle = oracle
        self.settings = settings
        self.seen: dict[Job, list[int]] = {}
        self.tokenizer = Tokenizer(oracle.folder)

    def tokens(self, job: Job) -> list[int]:
        """What the job's one answer is made of, up to and with the token that ends it."""
        if job.stop_strings:
            free = self.tokens(replace(job, stop_strings=()))
            return free[: cut(self.tokenizer, free, job.stop_strings, job.min_tokens)[0]]
        if job.temperature == 0 and not job.edited:
            return self.oracle.greedy(list(job.prompt), job.max_tokens, job.stop)
        alone = replace(job, arrives=0, aborted=None, logprobs=None)
        if alone not in self.seen:
            if job.temperature == 0:
                self.seen[alone] = greedy_by_hand(self.oracle.model, job)
            else:
                engine = make_engine(self.oracle.folder, **self.settings)
                self.seen[alone] = run_jobs(engine, [alone]).tokens(0)
        return self.seen[alone]

    def agree(self, job: Job, got: list[int]) -> bool:
        """Whether these are the job's first tokens. A drawn token may differ where rounding decides between two."""
        expected = self.tokens(job)
        if got == expected[: len(got)]:
            return True
        first = next(i for i, pair in enumerate(zip(got, expected)) if pair[0] != pair[1])
        return {got[first], expected[first]} <= self._within_tolerance(job, expected[:first])

    def _within_tolerance(self, job: Job, before: list[int]) -> set[int]:
        """The tokens that can come next, from logits as near to Hugging Face's as ours must be."""
        N, ids = 4000, [*job.prompt, *before]
        logits = edited_by_hand(hf_logits(self.oracle.model, ids)[-1], job, list(before)).repeat(N, 1)
        logits += (torch.rand(logits.shape) * 2 - 1) * LOGITS_TOLERANCE * max(job.repetition, 1 / job.repetition)
        if job.temperature == 0:
            return set(logits.argmax(dim=1).tolist())
        settings = SamplingBatch(
            temperature=torch.full((N,), job.temperature),
            top_k=torch.full((N,), job.top_k or logits.shape[1]),
            top_p=torch.full((N,), job.top_p),
            seeds=torch.full((N,), (job.seed or 0) % 2**63),
            positions=torch.full((N,), len(ids)),
            any_filter=True,
            min_p=torch.full((N,), job.min_p),
        )
        return set(sample(logits, settings).tolist())


def edited_by_hand(logits: Tensor, job: Job, answer: list[int]) -> Tensor:
    """One row of logits ``[V]`` as the job wants it, token by token, in vLLM's order."""
    row = logits.tolist()
    if len(answer) < job.min_tokens:
        for token in {*job.stop, EOS}:
            row[token] = -math.inf
    for token, bias in job.bias:
        row[token] += bias
    for token in {*job.prompt, *answer}:
        row[token] = row[token] / job.repetition if row[token] > 0 else row[token] * job.repetition
    for token in set(answer):
        row[token] -= job.frequency * answer.count(token) + job.presence
    return torch.tensor(row)


@torch.no_grad()
def greedy_by_hand(model: "LlamaForCausalLM", job: Job) -> list[int]:
    """The job's greedy tokens from Hugging Face's logits, edited by hand."""
    answer: list[int] = []
    past = None
    while len(answer) < job.max_tokens and not (answer and answer[-1] in job.stop):
        ids = list(job.prompt) if past is None else answer[-1:]
        out = model(torch.tensor([ids]), past_key_values=past, use_cache=True)
        past = out.past_key_values
        answer.append(int(edited_by_hand(out.logits[0, -1].float(), job, answer).argmax()))
    return answer


def cut(tokenizer: Tokenizer, tokens: list[int], stops: Sequence[str], min_tokens: int = 0) -> tuple[int, str, str]:
    """Of a whole answer: how many tokens it takes until a stop string is there, the text before it, and which it is."""
    early = tokenizer.decode(tokens[:min_tokens]).rstrip(INCOMPLETE)
    for count in range(min_tokens + 1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:count])
        for end in range(len(early) + 1, len(text) + 1):
            if found := [stop for stop in stops if text[:end].endswith(stop)]:
                longest = max(found, key=len)
                return count, text[: end - len(longest)], longest
    return len(tokens), tokenizer.decode(tokens), ""
