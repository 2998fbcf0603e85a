"""Attention over pages in plain torch: the backend that runs anywhere, and the oracle of the faster ones.

Pages are first gathered into one contiguous tensor, then torch's scaled_dot_product_attention does the rest. Requests that
compute one token (all of a decode step) go through together, padded to the longest; prompts go one by one.
"""

from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from minillm.attention.backend import AttentionBackend
from minillm.attention.batch import ForwardBatch
from minillm.debug.probes import probe

GRAIN = 16  # gather pieces of at most so many tokens, so that a huge page is not copied whole for a short request


@dataclass
class Gather:
    """Which pieces of the cache some requests need, to see ``longest`` tokens of each, and a mask for what is not theirs."""

    pieces: Tensor  # [R * n]: numbers of pieces of ``grain`` tokens
    grain: int
    num_requests: int
    longest: int
    mask: Tensor | None  # [R, 1, queries, longest], added to the scores; None where nothing is hidden but by causality


class ReferenceAttention(AttentionBackend):
    name = "reference"

    def prepare(self, batch: ForwardBatch) -> list[Gather]:
        """One gather for all single-token requests together, then one for each longer request."""
        gathers = [_plan_gather(batch, 0, batch.num_single)] if batch.num_single else []
        return gathers + [_plan_gather(batch, r, r + 1) for r in range(batch.num_single, batch.num_requests)]

    def attend(self, layer: int, q: Tensor, batch: ForwardBatch, scale: float) -> Tensor:
        """``q [T, H, D]`` -> ``[T, H * D]``."""
        T, H, D = q.shape
        gathers, singles = batch.plan, batch.num_single
        if singles == T:
            return self._decode(layer, q, batch, gathers[0], scale).view(T, H * D)
        out = torch.empty_like(q)
        if singles:
            out[:singles] = self._decode(layer, q[:singles], batch, gathers[0], scale).view(singles, H, D)
        start = singles
        for length, gather in zip(batch.query_lens[singles:], gathers[1 if singles else 0 :]):
            out[start : start + length] = self._prefill(layer, q[start : start + length], batch, gather, scale)
            start += length
        return out.view(T, H * D)

    def _decode(self, layer: int, q: Tensor, batch: ForwardBatch, gather: Gather, scale: float) -> Tensor:
        """One query a request: ``q [R, H, D]`` -> ``[R, H, 1, D]``-like, contiguous in (R, H, D).

        The heads that share one key/value head are taken as that head's queries: no key is copied for them.
        """
        R, H, D = q.shape
        k, v = gather_kv(layer, batch, gather)  # [R, Hkv, C, D]
        grouped = q.view(R, k.shape[1], H // k.shape[1], D)  # [R, Hkv, H / Hkv, D]
        return scaled_dot_product_attention(grouped, k, v, attn_mask=gather.mask, scale=scale).contiguous()

    def _prefill(self, layer: int, q: Tensor, batch: ForwardBatch, gather: Gather, scale: float) -> Tensor:
        """Several queries of one request, the last of its context: ``q [Tq, H, D]`` -> ``[Tq, H, D]``."""
        Tq = len(q)
        k, v = gather_kv(layer, batch, gather)  # [1, Hkv, C, D]
        queries = q.transpose(0, 1)[None]  # [1, H, Tq, D]
        out = scaled_dot_product_attention(
            queries, k, v, gather.mask, is_causal=k.shape[2] == Tq, scale=scale, enable_gqa=k.shape[1] != q.shape[1]
        )
        return out[0].transpose(0, 1)


def gather_kv(layer: int, batch: ForwardBatch, gather: Gather) -> tuple[Tensor, Tensor]:
    """The keys and values of some requests, out of their pages: two ``[R, Hkv, C, D]`` views of one contiguous copy."""
    cache = batch.kv_cache
    Hkv, D = cache.tensor.shape[-2:]
    probe.on and probe("kv.gather", layer=layer, pieces=gather.pieces, grain=gather.grain, page_table=batch.page_table)
    flat = cache.slots[layer].view(-1, gather.grain * 2 * Hkv * D).index_select(0, gather.pieces)
    kv = flat.view(gather.num_requests, -1, 2, Hkv, D)[:, : gather.longest]  # [R, C, 2, Hkv, D]
    return kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)


def _plan_gather(batch: ForwardBatch, first: int, last: int) -> Gather:
    """Which pieces requests ``first`` to ``last - 1`` need, and the mask that hides what is not theirs to see."""
    S = batch.kv_cache.page_size
    lengths = batch.context_lens[first:last]
    longest, queries = max(lengths), batch.query_lens[first]
    grain = gcd(S, GRAIN)
    n = -(-longest // grain)  # pieces a request
    within = S // grain  # pieces a page
    table = batch.page_table[first:last, : -(-n // within)]  # [R, pages]
    if within > 1:
        offsets = torch.arange(within, device=table.device)
        table = (table[:, :, None] * within + offsets).flatten(1)  # [R, pages * within]
    hides = min(lengths) < longest or 1 < queries < longest  # a whole prompt needs no mask: causality says it all
    mask = _mask(lengths, queries, longest, batch) if hides else None
    return Gather(table[:, :n].reshape(-1), grain, last - first, longest, mask)


def _mask(lengths: list[int], queries: int, width: int, batch: ForwardBatch) -> Tensor:
    """``[R, 1, queries, width]``: 0 where query i (position ``length - queries + i``) may look, -inf elsewhere."""
    dtype, device = batch.kv_cache.tensor.dtype, batch.page_table.device
    keys = torch.arange(width, device=device)
    ends = torch.tensor(lengths, device=device)[:, None] - torch.arange(
        queries - 1, -1, -1, device=device
    )  # [R, queries]
    hidden = keys >= ends[:, :, None]  # [R, queries, width]
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))[:, None]
