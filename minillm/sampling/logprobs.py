"""Log probabilities, as the model gave them: before any penalty, mask, temperature or filter, as in vLLM."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minillm.probe import probe
from minillm.request import Candidate
from minillm.sampling.sampler import parts_of
from minillm.scheduler.plan import PlanRow

MOST_LOGITS = 2**24  # of a prompt's logits, so many numbers are made at a time: 64 MiB


@dataclass
class TopLogprobs:
    """The chosen token of each row in front, then the row's likeliest; on the device until somebody reads them."""

    token_ids: Tensor  # int64 [n, 1 + count]
    logprobs: Tensor  # float32 [n, 1 + count]
    ranks: Tensor  # int64 [n]: the chosen token's place among all tokens

    def read(self, counts: list[int]) -> list[list[Candidate]]:
        """For each row its chosen token, then its ``counts[row]`` likeliest, 1, 2, ... by rank."""
        every = zip(counts, self.token_ids.tolist(), self.logprobs.tolist(), self.ranks.tolist())
        return [
            [(tokens[0], logprobs[0], rank), *zip(tokens[1 : count + 1], logprobs[1:], range(1, count + 1))]
            for count, tokens, logprobs, rank in every
        ]


def top_logprobs(logits: Tensor, chosen: Tensor, count: int) -> TopLogprobs:
    """``logits [n, V]``, ``chosen [n]`` token ids -> log probabilities, in float32, of those and of the ``count``
    likeliest.

    The chosen token's rank is the number of tokens that are at least as likely, itself included: 1 is the likeliest.
    """
    logprobs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)  # [n, V]
    own = logprobs.gather(1, chosen[:, None])  # [n, 1]
    ranks = (logprobs >= own).sum(dim=-1)
    likeliest, ids = logprobs.topk(count, dim=-1)  # [n, count]
    probe.on and probe("sampler.logprobs", logprobs=logprobs, chosen=chosen, ranks=ranks, count=count)
    return TopLogprobs(torch.cat([chosen[:, None], ids], dim=1), torch.cat([own, likeliest], dim=1), ranks)


@dataclass
class AskedLogprobs:
    """The raw logits of the rows that want log probabilities, before anything changes them."""

    logits: Tensor  # [n, V]; given up once they are used, for the next step may come before anyone reads this one
    index: Tensor  # [n]: rows of the batch
    where: list[int]  # the same
    counts: list[int]

    def of(self, tokens: Tensor) -> TopLogprobs:
        """Once the batch's ``tokens [R]`` are chosen."""
        chosen, count = tokens[self.index], max(self.counts)
        tops = [top_logprobs(self.logits[part], chosen[part], count) for part in parts_of(*self.logits.shape)]
        self.logits = self.logits.new_empty(0)
        return TopLogprobs(
            torch.cat([top.token_ids for top in tops]),
            torch.cat([top.logprobs for top in tops]),
            torch.cat([top.ranks for top in tops]),
        )


class PromptLogprobs:
    """One request's prompt, of which every token's log probability is wanted; it is computed chunk by chunk."""

    def __init__(self, prompt_ids: list[int], count: int, vocab_size: int, device: torch.device) -> None:
        self.tokens = torch.tensor(prompt_ids, device=device)  # [prompt]
        self.count = count
        self.piece = max(MOST_LOGITS // vocab_size, 1)  # tokens at a time
        self.done = 1  # tokens of which it is known; before the first there is nothing to predict it from

    @property
    def whole(self) -> bool:
        return self.done >= len(self.tokens)

    def take(
        self, row: PlanRow, hidden: Tensor, compute_logits: Callable[[Tensor], Tensor]
    ) -> tuple[int, list[list[Candidate]]]:
        """``hidden [row.count, hidden]``, what the model made of a chunk -> the first prompt token that it tells about,
        and the log probabilities from there on. Token ``p + 1`` is predicted at token ``p``."""
        first = max(self.done, row.start + 1)
        end = min(row.start + row.count + 1, len(self.tokens))
        found: list[list[Candidate]] = []
        for at in range(first, end, self.piece):
            stop = min(at + self.piece, end)
            logits = compute_logits(hidden[at - 1 - row.start : stop - 1 - row.start])  # [stop - at, V]
            top = top_logprobs(logits, self.tokens[at:stop], self.count)
            found += top.read([self.count] * (stop - at))
        self.done = max(self.done, end)
        return first, found


def offsets(rows: list[PlanRow]) -> np.ndarray:
    """Where each row's tokens begin in ``[T]``."""
    counts = np.array([row.count for row in rows])
    return np.cumsum(counts) - counts
