"""StepPlan: the scheduler's decision for one step. Plain ints, cheap to print, send and replay."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from minillm.request import Candidate, Request, SamplingParams


@dataclass(slots=True)
class PlanRow:
    """One request's share of a step: compute tokens ``start`` to ``start + count - 1``.

    seat: the request's row in the runner's arrays.
    token_ids: the tokens, or empty: then it is the one token that was sampled last, which the device still has.
    new_pages: pages added to its page table, which now has ``num_pages``.
    samples: whether the last of these tokens is the last one known, so that the next one is sampled from it.
    draft_ids: what may come after the last one known. They are computed with it, the last of the ``count`` tokens, and
        a token is sampled after each of them too.
    joins: its sampling settings if it takes its seat in this step (admitted, or back after preemption), else None.
    """

    request_id: int
    seat: int
    start: int
    count: int
    token_ids: list[int]
    new_pages: list[int]
    num_pages: int
    samples: bool
    joins: "Joining | None" = None
    draft_ids: Sequence[int] = ()


@dataclass(slots=True)
class Joining:
    """What the runner must know of a request that takes its seat. Tokens are named only if a control needs them.

    prompt_logprobs: whether the log probabilities of its prompt are wanted from it.
    end_ids: tokens that min_tokens forbids. bad_words: token sequences that must not be generated.
    """

    params: SamplingParams
    seed: int
    prompt_ids: list[int] = field(default_factory=list)
    output_ids: list[int] = field(default_factory=list)
    prompt_logprobs: bool = False
    end_ids: list[int] = field(default_factory=list)
    bad_words: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, request: Request) -> "Joining":
        params = request.params
        joining = cls(params, request.seed)
        if params.penalises or params.min_tokens or request.bad_words or request.wants_prompt_logprobs:
            joining.prompt_ids, joining.output_ids = request.prompt_ids, list(request.output_ids)
            joining.end_ids, joining.bad_words = sorted(request.end_ids), request.bad_words
            joining.prompt_logprobs = request.wants_prompt_logprobs
        return joining


@dataclass(slots=True)
class StepPlan:
    """Which requests run in this step, how many tokens of each, and who had to give its pages back.

    num_drafts: how many drafts all rows have together.
    masks: by request id, the tokens that its grammar allows next, as bits ``[ceil(V / 32)]`` int32.
    advanced: whether its tokens are in the scheduler's books as computed.
    """

    step: int
    rows: list[PlanRow] = field(default_factory=list)
    preempted: list[int] = field(default_factory=list)
    num_drafts: int = 0
    masks: dict[int, np.ndarray] = field(default_factory=dict)
    advanced: bool = False

    @property
    def num_tokens(self) -> int:
        return sum(row.count for row in self.rows)


@dataclass(slots=True)
class StepResult:
    """The tokens of each request that sampled, by request id: one, and one more for each draft that was right.

    logprobs: for those that asked, for each of the tokens the log probabilities of itself and of the likeliest.
    prompt_logprobs: for those that asked, from which prompt token on this step tells them, and what they are.
    """

    tokens: dict[int, list[int]]
    logprobs: dict[int, list[list[Candidate]]] = field(default_factory=dict, repr=False)
    prompt_logprobs: dict[int, tuple[int, list[list[Candidate]]]] = field(default_factory=dict, repr=False)
