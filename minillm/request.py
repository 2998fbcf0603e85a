"""Requests: what a user asks for, what the engine knows about it while it runs, and what comes back."""

import enum
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

from minillm.sampling_params import SamplingParams, StructuredOutputsParams

__all__ = [
    "Candidate",
    "CompletionOutput",
    "Logprob",
    "Place",
    "Request",
    "RequestOutput",
    "RequestState",
    "SamplingParams",
    "StructuredOutputsParams",
]

Candidate = tuple[int, float, int]  # token id, its log probability, its rank among all tokens (1 is the likeliest)


class RequestState(enum.Enum):
    """Where a request is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True)
class Place:
    """What a request has while it runs, and loses as a whole when it is preempted or ends: `Request.leave`.

    seat: its row in the runner's per-request arrays (SGLang: req_pool_idx), -1 if it has none.
    pages: its page table: page ``i`` holds tokens ``i * page_size`` to ``(i + 1) * page_size - 1``.
    num_computed: how many of its tokens have their keys and values in these pages.
    last_on_device: whether the runner still has its last token at that seat, so that a plan need not name it.
    node, num_shareable: where its path in the prefix cache ends, and how many of its pages lie on it. No node: it
    shares with nobody. num_offered: how many of its pages were full when the cache was last offered any.
    """

    seat: int = -1
    pages: list[int] = field(default_factory=list)
    num_computed: int = 0
    last_on_device: bool = False
    node: Any = field(default=None, repr=False)
    num_shareable: int = 0
    num_offered: int = 0


@dataclass(eq=False)
class Request:
    """One prompt and one answer that is generated for it.

    place: where it is while it runs: seat, pages, what of it is computed.
    num_cached: prompt tokens that were found in the prefix cache when it was first admitted, None before that.
    namespace: requests share prefixes only within one (vLLM: cache_salt).
    priority: lower goes first, with ``scheduling_policy="priority"``. overtaken: how many later ones went before it.
    in_flight: tokens that were sampled or soon will be in steps whose result nobody has read (overlap scheduling).
    stream: whether every new token is worth an output, or only the end.
    stop_ids: tokens that end it. end_ids: those that min_tokens forbids, which are the model's own end tokens too.
    leader, index: of several answers to one prompt (n), the first one, and which one this is. The leader has None.
    bad_words: token sequences that may not be generated.
    broken: its grammar could not be followed to the end, so that an end that looks whole is none.
    logprobs: for each generated token the candidates, itself first; prompt_logprobs likewise, None for the first token.
    """

    id: int
    prompt_ids: list[int]
    params: SamplingParams
    max_tokens: int  # resolved: never past the context limit
    seed: int  # resolved: the user's, or one drawn from the engine's seed and the id
    prompt: str | None = None
    stop_ids: frozenset[int] = frozenset()
    output_ids: list[int] = field(default_factory=list)
    place: Place = field(default_factory=Place)
    num_cached: int | None = None
    namespace: Hashable = None
    priority: int = 0
    overtaken: int = 0
    in_flight: int = 0
    stream: bool = False
    state: RequestState = RequestState.WAITING
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    num_preemptions: int = 0
    leader: "Request | None" = None
    index: int = 0
    end_ids: frozenset[int] = frozenset()
    bad_words: list[list[int]] = field(default_factory=list, repr=False)
    broken: bool = False
    logprobs: list[list[Candidate]] = field(default_factory=list, repr=False)
    prompt_logprobs: list[list[Candidate] | None] = field(default_factory=list, repr=False)

    @property
    def seat(self) -> int:
        return self.place.seat

    @property
    def pages(self) -> list[int]:
        return self.place.pages

    @property
    def num_computed(self) -> int:
        return self.place.num_computed

    @property
    def num_tokens(self) -> int:
        """Tokens there are so far: the prompt's, the generated ones, and those that the device is just making."""
        return self.num_known + self.in_flight

    @property
    def num_known(self) -> int:
        """Tokens that the host knows by number."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def num_pending(self) -> int:
        """Known tokens without KV. Prefill, chunk and decode are all "compute some of these"; decode has exactly
        one."""
        if self.in_flight and len(self.output_ids) + self.in_flight >= self.max_tokens:
            return 0  # the last one is on its way, and its KV is never needed
        return len(self.prompt_ids) + len(self.output_ids) + self.in_flight - self.place.num_computed

    @property
    def finished(self) -> bool:
        return self.state is RequestState.FINISHED

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether its prompt's logits are needed, all of them: no other request's keys and values will do."""
        return self.params.prompt_logprobs is not None and self.leader is None

    @property
    def group(self) -> int:
        """All answers to one prompt have the same: the id of the first."""
        return self.id if self.leader is None else self.leader.id

    def sibling(self, index: int, seed: int) -> "Request":
        """Another answer to the same prompt: it has a seed of its own, and nothing of it is there yet."""
        return replace(
            self, id=self.id + index, seed=seed, leader=self, index=index, output_ids=[], place=Place(), logprobs=[]
        )

    def leave(self) -> None:
        """Lose seat and pages, and with them all that was computed. Its tokens stay, those in flight too."""
        self.place = Place()

    def token_ids(self, start: int, count: int) -> list[int]:
        """Known tokens ``start`` to ``start + count - 1``, prompt and output taken as one sequence."""
        split, stop = len(self.prompt_ids), start + count
        if stop <= split:
            return self.prompt_ids[start:stop]
        return self.prompt_ids[start:split] + self.output_ids[max(start - split, 0) : stop - split]

    def append(self, token_id: int, logprobs: list[Candidate] | None = None) -> None:
        """Take a generated token, with its log probabilities if it asked for them, and finish if it is the last one."""
        self.output_ids.append(token_id)
        if logprobs is not None:
            self.logprobs.append(logprobs)
        if token_id in self.stop_ids:
            self.finish("stop", stop_reason=token_id if token_id in self.params.stop_token_ids else None)
        elif len(self.output_ids) >= self.max_tokens:
            self.finish("length")

    def take_prompt_logprobs(self, position: int, logprobs: list[list[Candidate]]) -> None:
        """Take the log probabilities of prompt tokens ``position`` and up. What is known already is left out: after a
        preemption the prompt is computed again."""
        known: list[list[Candidate] | None] = self.prompt_logprobs or [None]
        self.prompt_logprobs = [*known, *logprobs[len(known) - position :]]

    def finish(self, reason: str, stop_reason: int | str | None = None) -> None:
        reason = "abort" if self.broken and reason == "stop" else reason
        self.state, self.finish_reason, self.stop_reason = RequestState.FINISHED, reason, stop_reason

    def __repr__(self) -> str:
        return (
            f"Request({self.id} {self.state.value}: {len(self.prompt_ids)} prompt + {len(self.output_ids)} output, "
            f"{self.num_computed} computed, {self.num_pending} pending, pages {self.pages})"
        )


@dataclass(slots=True)
class Logprob:
    """A token's log probability, its rank among all tokens (1 is the likeliest), and its text."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    """One answer to a prompt. ``delta`` is the text added since the previous output of the same request.

    logprobs: for each token, the log probability of itself and of the likeliest, by token id; None if not asked for.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None  # "stop", "length" or "abort"; None while it goes on
    stop_reason: int | str | None = None  # the stop token if it was one of stop_token_ids, or the stop string
    logprobs: list[dict[int, Logprob]] | None = None
    delta: str = ""
    cumulative_logprob: float | None = None


@dataclass
class RequestOutput:
    """What `LLM.generate` returns for one prompt (vLLM's shape)."""

    request_id: int
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int | None = None  # prompt tokens that the prefix cache had; None if it never ran
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
