"""Rules about single tokens: what a grammar allows, a bias, tokens that are allowed, and no end before min_tokens.

Each is kept on the device for the seats that have it. A rule that would leave a row no token at all (two rules that
contradict each other) is passed over in that row; the grammar comes first, then allowed tokens, bad words, min_tokens.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from minillm.probe import probe
from minillm.sampling.processors import LogitsProcessor, SeatProcessor
from minillm.sampling.seat_rows import SeatRows
from minillm.scheduler.plan import Joining


def keep_some(before: Tensor, after: Tensor) -> Tensor:
    """``after [n, V]``, but ``before`` in the rows in which ``after`` has only -inf."""
    some = after.amax(dim=-1, keepdim=True) > -math.inf
    return torch.where(some, after, before)


class Grammar(LogitsProcessor):
    """The tokens that each row's grammar allows now, as bits; they come with every plan."""

    bits: Tensor  # [n, ceil(V / 32)] int32

    def take(self, masks: Iterable[np.ndarray], device: torch.device) -> None:
        self.bits = torch.from_numpy(np.stack(list(masks))).to(device)

    def apply(self, logits: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        after = logits.masked_fill(~unpack(self.bits[rows], logits.shape[1]), -math.inf)
        probe.on and probe("sampler.mask", control="grammar", before=logits, after=after, where=where)
        return keep_some(logits, after)


class Biases(SeatProcessor):
    """logit_bias and allowed_token_ids: one row of numbers to add, -inf for what is not allowed."""

    def __init__(self, num_seats: int, vocab_size: int, device: torch.device) -> None:
        self.seats = SeatRows(num_seats, device, bias=((vocab_size,), torch.float32))

    def join(self, seat: int, joining: Joining) -> None:
        bias = torch.zeros(self.seats["bias"].shape[1])
        if joining.params.allowed_token_ids is not None:
            bias.fill_(-math.inf)[joining.params.allowed_token_ids] = 0.0
        for token, value in (joining.params.logit_bias or {}).items():
            bias[token] += value
        row = self.seats.take(seat)
        self.seats["bias"][row] = bias.to(self.seats.device)

    def apply(self, logits: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        after = logits + self.seats["bias"][rows]
        probe.on and probe("sampler.mask", control="bias", before=logits, after=after, where=where)
        return keep_some(logits, after)


class Ends(SeatProcessor):
    """min_tokens: the tokens that would end the answer, for as long as they must not."""

    def __init__(self, num_seats: int, vocab_size: int, device: torch.device) -> None:
        self.seats = SeatRows(num_seats, device, ends=((vocab_size,), torch.bool))

    def join(self, seat: int, joining: Joining) -> None:
        ends = torch.zeros(self.seats["ends"].shape[1], dtype=torch.bool)
        ends[list(joining.end_ids)] = True
        row = self.seats.take(seat)
        self.seats["ends"][row] = ends.to(self.seats.device)

    def apply(self, logits: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """Of rows that have not reached their min_tokens; the caller names only those."""
        after = logits.masked_fill(self.seats["ends"][rows], -math.inf)
        probe.on and probe("sampler.mask", control="min_tokens", before=logits, after=after, where=where)
        return keep_some(logits, after)


def unpack(bits: Tensor, V: int) -> Tensor:
    """``bits [n, ceil(V / 32)]`` int32, least significant first -> bool ``[n, V]``."""
    each = (bits[:, :, None] >> torch.arange(32, dtype=torch.int32, device=bits.device)) & 1  # [n, words, 32]
    return each.flatten(1)[:, :V].bool()
