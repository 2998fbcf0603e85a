"""Attention over pages in plain torch: the backend that runs anywhere, and the oracle of the faster ones.

Pages are first gathered into one contiguous tensor, then torch's scaled_dot_product_attention does the rest. Requests
that compute one token (all of a decode step) go through together, padded to the longest; prompts go one by one.
"""

from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from minillm.attention.backend import AttentionBackend
from minillm.attention.batch import ForwardBatch
from minillm.kvcache.storage import KVCache
from minillm.probe import probe

MOST_GATHERED = 2**24  # numbers, 64 MiB of float32: one-token requests are taken so many together, at least one
FIXED_GATHER = 2**26  # bytes that a recorded step may gather in a layer
GRAIN = 16  # gather pieces of at most so many tokens, so that a huge page is not copied whole for a short request


@dataclass
class Gather:
    """Which pieces of the cache some requests need to see ``longest`` tokens each, and what of it is not theirs."""

    pieces: Tensor  # [R * n]: numbers of pieces of ``grain`` tokens
    grain: int
    num_requests: int
    longest: int
    mask: Tensor | None  # [R, 1, queries, longest], added to the scores; None where nothing is hidden but by causality
    first: int | None  # the first piece, if all lie side by side: then they are read where they are
    buffer: Tensor | None  # [R * n, grain * 2 * Hkv * D]: where the copy goes, over the one before
    lengths: list[int]  # [R]: how many tokens each request sees
    queries: int  # how many each computes

    def within(self, window: int, batch: ForwardBatch) -> "Gather":
        """The same for layers with a sliding window: what lies before it is hidden too."""
        if self.longest <= window:
            return self
        return replace(self, mask=_mask(self.lengths, self.queries, batch, window))


@dataclass
class FixedGather(Gather):
    """The gather of a step that is recorded: all pages of each request, and a mask that is made of ``ends [R, 1, 1]``,
    their lengths, each time that the step is replayed."""

    ends: Tensor

    def within(self, window: int, batch: ForwardBatch) -> "FixedGather":
        return replace(self, mask=_hide(self.ends, self.longest, window, batch.kv_cache.tensor.dtype))


class ReferenceAttention(AttentionBackend):
    name = "reference"
    recordable: tuple[str, ...] = ("cpu",)
    gathers = True  # whether decode looks at a copy of each context

    def prepare(self, batch: ForwardBatch) -> dict[int | None, list[Any]]:
        """A gather for many single-token requests together, as far as memory allows, then one for each longer request.

        These are for layers without a window; the first layer that has one adds its own.
        """
        singles: list[Any] = [self.plan_singles(batch, *group) for group in self.groups(batch)]
        plans = singles + [_plan_gather(batch, r, r + 1) for r in range(batch.num_single, batch.num_requests)]
        share_buffer([plan for plan in plans if isinstance(plan, Gather)], batch.kv_cache)
        return {None: plans}

    def most_fixed_rows(self, pages: int, kv_cache: KVCache) -> int:
        """So many that the gather of whole page tables stays small."""
        a_row = pages * kv_cache.page_size * kv_cache.slots[0][0].nbytes
        return max(FIXED_GATHER // a_row, 1)

    def attend(self, layer: int, q: Tensor, batch: ForwardBatch, scale: float, window: int | None = None) -> Tensor:
        """``q [T, H, D]`` -> ``[T, H * D]``."""
        T, H, D = q.shape
        if isinstance(batch.plan[None][0], Tensor):
            batch.plan[None] = [_fix_gather(batch, batch.plan[None][0])]
        if window not in batch.plan:
            assert window is not None
            batch.plan[window] = [plan.within(window, batch) for plan in batch.plan[None]]
        plans, singles = batch.plan[window], batch.num_single
        if singles == T and len(plans) == 1:
            return self.decode(layer, q, batch, plans[0], scale)
        out, start = q.new_empty(T, H, D), 0
        for plan in plans:
            end = start + plan.num_requests * plan.queries
            if start < singles:
                out[start:end] = self.decode(layer, q[start:end], batch, plan, scale).view(-1, H, D)
            else:
                out[start:end] = self.prefill(layer, q[start:end], batch, plan, scale)
            start = end
        return out.view(T, H * D)

    def groups(self, batch: ForwardBatch) -> list[tuple[int, int]]:
        """The requests with one token, first and last (exclusive) of those that are gathered together: all, unless the
        copies, each as long as the longest of its group, would be `MOST_GATHERED` numbers or more."""
        width = batch.kv_cache.slots[0].shape[1]
        if not self.gathers:
            return [(0, batch.num_single)] if batch.num_single else []
        found: list[tuple[int, int]] = []
        first = longest = 0
        for r, length in enumerate(batch.context_lens[: batch.num_single]):
            longest = max(longest, length)
            if r > first and (r + 1 - first) * longest * width > MOST_GATHERED:
                found.append((first, r))
                first, longest = r, length
        return [*found, (first, batch.num_single)] if batch.num_single else []

    def plan_singles(self, batch: ForwardBatch, first: int = 0, last: int | None = None) -> Any:
        """What `decode` needs for requests ``first`` to ``last - 1``, worked out once for all layers."""
        return _plan_gather(batch, first, batch.num_single if last is None else last)

    def fixed_plan(self, lengths: Tensor, split_blocks: Tensor, kv_cache: KVCache) -> dict[int | None, list[Any]]:
        """Each request's whole page table is gathered, and a mask hides what is not its own: much more than is needed,
        but as much in every step."""
        return {None: [lengths]}  # the rest when the page table is there: in the first layer

    def decode(self, layer: int, q: Tensor, batch: ForwardBatch, gather: Any, scale: float) -> Tensor:
        """One query a request: ``q [R, H, D]`` -> ``[R, H * D]``.

        The heads that share one key/value head are taken as that head's queries: no key is copied for them.
        """
        R, H, D = q.shape
        k, v = gather_kv(layer, batch, gather)  # [R, Hkv, C, D]
        grouped = q.reshape(R, k.shape[1], H // k.shape[1], D)  # [R, Hkv, H / Hkv, D]
        return scaled_dot_product_attention(grouped, k, v, attn_mask=gather.mask, scale=scale).reshape(R, H * D)

    def prefill(self, layer: int, q: Tensor, batch: ForwardBatch, gather: Gather, scale: float) -> Tensor:
        """Several queries of one request, the last of its context: ``q [Tq, H, D]`` -> ``[Tq, H, D]``."""
        k, v = gather_kv(layer, batch, gather)  # [1, Hkv, C, D]
        queries = q.transpose(0, 1)[None]  # [1, H, Tq, D]
        out = scaled_dot_product_attention(
            queries, k, v, gather.mask, is_causal=gather.mask is None, scale=scale, enable_gqa=k.shape[1] != q.shape[1]
        )
        return out[0].transpose(0, 1)


def share_buffer(plans: list[Gather], cache: KVCache) -> None:
    """One piece of memory for all copies of a step: each is looked at before the next is made."""
    copies = [plan for plan in plans if plan.first is None]
    if copies:
        width = copies[0].grain * cache.slots[0].shape[1]
        buffer = cache.tensor.new_empty(max(len(plan.pieces) for plan in copies), width)
        for plan in copies:
            plan.buffer = buffer[: len(plan.pieces)]


def gather_kv(layer: int, batch: ForwardBatch, gather: Gather) -> tuple[Tensor, Tensor]:
    """The keys and values of some requests, out of their pages: two ``[R, Hkv, C, D]`` views of one contiguous copy."""
    cache = batch.kv_cache
    Hkv, D = cache.tensor.shape[-2:]
    pieces = cache.slots[layer].view(-1, gather.grain * 2 * Hkv * D)
    probe.on and probe("kv.gather", layer=layer, gather=gather, batch=batch)
    if gather.first is not None:
        flat = pieces.narrow(0, gather.first, len(gather.pieces))
    else:
        flat = torch.index_select(pieces, 0, gather.pieces, out=gather.buffer)
    kv = flat.view(gather.num_requests, -1, 2, Hkv, D)[:, : gather.longest]  # [R, C, 2, Hkv, D]
    return kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)


def _plan_gather(batch: ForwardBatch, first: int, last: int) -> Gather:
    """Which pieces requests ``first`` to ``last - 1`` need, and the mask that hides what is not theirs to see."""
    cache = batch.kv_cache
    S, grain = cache.page_size, gcd(cache.page_size, GRAIN)
    lengths = batch.context_lens[first:last]
    longest, queries = max(lengths), batch.query_lens[first]
    n, within = -(-longest // grain), S // grain  # pieces a request, pieces a page
    table = batch.page_table[first:last, : -(-n // within)]  # [R, pages]
    pieces = _pieces(table, within)[:, :n].reshape(-1)
    hides = min(lengths) < longest or 1 < queries < longest  # a whole prompt needs no mask: causality says it all
    mask = _mask(lengths, queries, batch) if hides else None
    start = _side_by_side(pieces) if last - first == 1 else None
    return Gather(pieces, grain, last - first, longest, mask, start, None, lengths, queries)


def _fix_gather(batch: ForwardBatch, lengths: Tensor) -> FixedGather:
    """For requests of ``lengths [R]`` tokens, whatever these are."""
    cache, R = batch.kv_cache, len(lengths)
    S, grain = cache.page_size, gcd(cache.page_size, GRAIN)
    pieces, longest = _pieces(batch.page_table, S // grain).reshape(-1), batch.page_table.shape[1] * S
    ends = lengths.clamp(min=1).long()[:, None, None]  # nobody's row looks at one token, whatever that is
    mask = _hide(ends, longest, None, cache.tensor.dtype)
    buffer = cache.tensor.new_empty(len(pieces), grain * cache.slots[0].shape[1])
    return FixedGather(pieces, grain, R, longest, mask, None, buffer, [longest] * R, 1, ends)


def _pieces(page_table: Tensor, within: int) -> Tensor:
    """``page_table [R, pages]`` -> the numbers of the pages' pieces ``[R, pages * within]``, ``within`` of each."""
    if within == 1:
        return page_table
    inside = torch.arange(within, device=page_table.device)
    return (page_table[:, :, None] * within + inside).flatten(1)


def _side_by_side(pieces: Tensor) -> int | None:
    """The first of ``pieces [n]`` if each is the next one in memory after the one before, else None."""
    if pieces.device.type != "cpu":
        return None  # looking would make the CPU wait for the GPU
    listed = pieces.tolist()
    return listed[0] if listed == list(range(listed[0], listed[0] + len(listed))) else None


def _mask(lengths: list[int], queries: int, batch: ForwardBatch, window: int | None = None) -> Tensor:
    """``[R, 1, queries, longest]``: 0 where query i (position ``length - queries + i``) may look, -inf elsewhere."""
    dtype, device = batch.kv_cache.tensor.dtype, batch.page_table.device
    later = torch.arange(queries - 1, -1, -1, device=device)
    ends = (torch.tensor(lengths, device=device)[:, None] - later)[:, :, None]  # [R, queries, 1]
    return _hide(ends, max(lengths), window, dtype)


def _hide(ends: Tensor, longest: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """``[R, 1, queries, longest]``: 0 for keys before ``ends [R, queries, 1]`` and in the window, -inf for others."""
    keys = torch.arange(longest, device=ends.device)
    hidden = keys >= ends  # [R, queries, longest]
    if window is not None:
        hidden |= keys < ends - window
    return torch.zeros(hidden.shape, dtype=dtype, device=ends.device).masked_fill_(hidden, float("-inf"))[:, None]
