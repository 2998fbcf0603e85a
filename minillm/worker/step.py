"""A step on its way: prepared for the device by the host, and launched, until its tokens are read."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from minillm.attention.batch import ForwardBatch
from minillm.request import Candidate
from minillm.sampling.logprobs import AskedLogprobs, TopLogprobs
from minillm.sampling.verify import tokens_by_request
from minillm.scheduler.plan import PlanRow, StepPlan, StepResult


@dataclass
class Launched:
    """A step that the device works on, or has done: what will come of it.

    rows: those that sample, in the order of ``tokens [R]``; one with drafts for each of its positions. asked, top:
    whose log probabilities are wanted, and what they are. ready: when the tokens are on the host.
    """

    plan: StepPlan
    prompt_logprobs: dict[int, tuple[int, list[list[Candidate]]]] = field(default_factory=dict)
    rows: list[PlanRow] = field(default_factory=list)
    tokens: Tensor | None = None
    asked: AskedLogprobs | None = None
    top: TopLogprobs | None = None
    ready: "torch.cuda.Event | None" = None

    def read(self) -> StepResult:
        """Wait for the tokens, if they are not there yet."""
        result = StepResult({}, prompt_logprobs=self.prompt_logprobs)
        if self.tokens is not None:
            if self.ready is not None:
                self.ready.synchronize()
            sampled = self.tokens.tolist()
            if self.plan.num_drafts:
                result.tokens = tokens_by_request(self.rows, sampled)
            else:
                result.tokens = {row.request_id: [token] for row, token in zip(self.rows, sampled)}
        if self.asked is not None and self.top is not None:
            for i, candidates in zip(self.asked.where, self.top.read(self.asked.counts)):
                id = self.rows[i].request_id
                known = result.logprobs.setdefault(id, [])
                if len(known) < len(result.tokens[id]):  # else it tells of what follows a wrong draft
                    known.append(candidates)
        return result


@dataclass
class Prepared:
    """A plan that is ready for the device: all that the page table says of it is worked out.

    rows: in the batch's order, one-token rows first. batch: its ``input_ids`` are those that the plan names, and lack
    the ones that the device has still. slots ``[R]``: in place of a batch, if a recorded graph computes the step.
    """

    plan: StepPlan
    rows: list[PlanRow]
    batch: ForwardBatch | None = None
    slots: np.ndarray | None = None
