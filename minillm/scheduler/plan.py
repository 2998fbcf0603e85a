"""StepPlan: the scheduler's decision for one step. Plain ints, cheap to print, send and replay."""

from dataclasses import dataclass, field

from minillm.request import SamplingParams


@dataclass(slots=True)
class PlanRow:
    """One request's share of a step: compute tokens ``start`` to ``start + count - 1``.

    seat: the request's row in the runner's arrays.
    token_ids: the tokens, or empty: then it is the one token that was sampled last, which the device still has.
    new_pages: pages added to its page table, which now has ``num_pages``.
    samples: whether the last of these tokens is the last one known, so that the next one is sampled from it.
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


@dataclass(slots=True)
class Joining:
    """What the runner must know of a request that takes its seat."""

    params: SamplingParams
    seed: int


@dataclass(slots=True)
class StepPlan:
    """Which requests run in this step, how many tokens of each, and who had to give its pages back."""

    step: int
    rows: list[PlanRow] = field(default_factory=list)
    preempted: list[int] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(row.count for row in self.rows)


@dataclass(slots=True)
class StepResult:
    """The token sampled for each request that sampled one, by request id."""

    tokens: dict[int, int]
