"""Requests: what a user asks for, what the engine knows about it while it runs, and what comes back."""

import enum
import math
import numbers
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class SamplingParams:
    """How to choose the next token. Names and defaults are vLLM's.

    temperature: 0 is greedy; above 0, logits are divided by it before the softmax.
    top_p: keep the most likely tokens whose probabilities add up to this, in (0, 1].
    top_k: keep this many of the most likely tokens; 0 or -1 keeps all.
    seed: two requests with the same seed, prompt and settings get the same text, whatever else is in the batch.
    max_tokens: the most tokens to generate; None goes on to the context limit.
    stop_token_ids: end after one of these tokens, as after the end-of-sequence token.
    ignore_eos: go on after the end-of-sequence token.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int | None = 16
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it must be 0 (greedy) or above, and finite")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1 (1 keeps every token)")
        if not _is_whole(self.top_k) or self.top_k < -1:
            raise ValueError(f"top_k is {self.top_k!r}; it must be a count of tokens, or 0 or -1 to keep all")
        if self.max_tokens is not None and (not _is_whole(self.max_tokens) or self.max_tokens < 1):
            raise ValueError(f"max_tokens is {self.max_tokens!r}; it must be at least 1, or None for the context limit")
        if self.seed is not None and not _is_whole(self.seed):
            raise ValueError(f"seed is {self.seed!r}; it must be an integer or None")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def _is_whole(value: Any) -> bool:
    """Whether it is an integer of any kind (numpy's too)."""
    return isinstance(value, numbers.Integral)


class RequestState(enum.Enum):
    """Where a request is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False)
class Request:
    """One prompt and what has been generated for it.

    num_computed: how many of its tokens have their keys and values in the cache.
    pages: its page table: page ``i`` holds tokens ``i * page_size`` to ``(i + 1) * page_size - 1``.
    node, num_shareable: where its path in the prefix cache ends, and how many of its pages lie on it.
    num_cached: prompt tokens that were found in the prefix cache when it was first admitted, None before that.
    namespace: requests share prefixes only within one (vLLM: cache_salt).
    priority: lower goes first, with ``scheduling_policy="priority"``. overtaken: how many later ones went before it.
    seat: its row in the runner's per-request arrays while it runs (SGLang: req_pool_idx), -1 otherwise.
    last_on_device: whether the runner still has its last token at that seat, so that a plan need not name it.
    stream: whether every new token is worth an output, or only the end.
    """

    id: int
    prompt_ids: list[int]
    params: SamplingParams
    max_tokens: int  # resolved: never past the context limit
    seed: int  # resolved: the user's, or one drawn from the engine's seed and the id
    prompt: str | None = None
    stop_ids: frozenset[int] = frozenset()
    output_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    pages: list[int] = field(default_factory=list)
    node: Any = field(default=None, repr=False)
    num_shareable: int = 0
    num_cached: int | None = None
    namespace: Hashable = None
    priority: int = 0
    overtaken: int = 0
    seat: int = -1
    last_on_device: bool = False
    stream: bool = False
    state: RequestState = RequestState.WAITING
    finish_reason: str | None = None
    stop_reason: int | None = None
    num_preemptions: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens known so far: the prompt's and the generated ones."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def num_pending(self) -> int:
        """Known tokens without KV. Prefill, chunk and decode are all "compute some of these"; decode has exactly
        one."""
        return self.num_tokens - self.num_computed

    @property
    def finished(self) -> bool:
        return self.state is RequestState.FINISHED

    def token_ids(self, start: int, count: int) -> list[int]:
        """Known tokens ``start`` to ``start + count - 1``, prompt and output taken as one sequence."""
        split, stop = len(self.prompt_ids), start + count
        if stop <= split:
            return self.prompt_ids[start:stop]
        return self.prompt_ids[start:split] + self.output_ids[max(start - split, 0) : stop - split]

    def append(self, token_id: int) -> None:
        """Take a generated token, and finish if it is the last one."""
        self.output_ids.append(token_id)
        if token_id in self.stop_ids:
            self.finish("stop", stop_reason=token_id if token_id in self.params.stop_token_ids else None)
        elif len(self.output_ids) >= self.max_tokens:
            self.finish("length")

    def finish(self, reason: str, stop_reason: int | None = None) -> None:
        self.state, self.finish_reason, self.stop_reason = RequestState.FINISHED, reason, stop_reason

    def __repr__(self) -> str:
        return (
            f"Request({self.id} {self.state.value}: {len(self.prompt_ids)} prompt + {len(self.output_ids)} output, "
            f"{self.num_computed} computed, {self.num_pending} pending, pages {self.pages})"
        )


@dataclass
class CompletionOutput:
    """One answer to a prompt. ``delta`` is the text added since the previous output of the same request."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None  # "stop", "length" or "abort"; None while it goes on
    stop_reason: int | None = None  # the stop token, if it was one of SamplingParams.stop_token_ids
    logprobs: None = None
    delta: str = ""


@dataclass
class RequestOutput:
    """What `LLM.generate` returns for one prompt (vLLM's shape)."""

    request_id: int
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int | None = None  # prompt tokens that the prefix cache had; None if it never ran
