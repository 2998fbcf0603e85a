"""Attention over pages in plain torch, the backend that runs anywhere: ``attention_backend="reference"``.

Pages are first gathered into one contiguous tensor, then torch's scaled_dot_product_attention does the rest. Requests
that compute one token (all of a decode step) go through together, padded to the longest; prompts go one by one.
"""

from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from minillm.attention.backend import AttentionBackend, AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kvcache.storage import KVCache
from minillm.probe import probe

MOST_GATHERED = 2**24  # numbers, 64 MiB of float32: one-token requests are taken so many together, at least one
FIXED_GATHER = 2**26  # bytes that a recorded step may gather in a layer
GRAIN = 16  # gather pieces of at most so many tokens, so that a huge page is not copied whole for a short request
Masks = dict[int | None, Tensor | None]


@dataclass
class Gather:
    """Which pieces of the cache some requests need to see ``longest`` tokens each, and what of it is not theirs."""

    pieces: Tensor  # [R * n]: numbers of pieces of ``grain`` tokens
    grain: int
    num_requests: int
    queries: int  # how many each request computes
    longest: int
    masks: Masks  # by a layer's window: [R, 1, queries, longest], added to scores; None: only causality hides anything
    first: int | None = None  # the first piece, if all lie side by side: then they are read where they are
    buffer: Tensor | None = None  # [R * n, grain * 2 * Hkv * D]: where the copy goes, over the one before


class GatherAttention(AttentionBackend):
    name = "reference"
    recordable: tuple[str, ...] = ("cpu",)
    gathers = True  # whether decode looks at a copy of each context

    def prepare(self, batch: ForwardBatch) -> list[Any]:
        """A gather for many single-token requests together, as far as memory allows, then one for each longer
        request."""
        singles: list[Any] = [self.plan_singles(batch, *group) for group in self.groups(batch)]
        prompts = [plan_gather(self.shape, batch, r, r + 1) for r in range(batch.num_single, batch.num_requests)]
        plans = singles + prompts
        share_buffer(plans if self.gathers else prompts, batch.kv_cache)
        return plans

    def groups(self, batch: ForwardBatch) -> list[tuple[int, int]]:
        """The requests with one token, first and last (exclusive) of those that are gathered together: all, unless the
        copies, each as long as the longest of its group, would be `MOST_GATHERED` numbers or more."""
        width = 2 * self.shape.num_kv_heads * self.shape.head_dim
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
        return plan_gather(self.shape, batch, first, batch.num_single if last is None else last)

    def fixed_plan(self, batch: ForwardBatch, lengths: Tensor, split_blocks: Tensor) -> list[Any]:
        """Each request's whole page table is gathered, and a mask hides what is not its own: much more than is needed,
        but as much in every step."""
        cache, page_table = batch.kv_cache, batch.page_table
        S, grain = cache.page_size, gcd(cache.page_size, GRAIN)
        pieces, longest = _pieces(page_table, S // grain).reshape(-1), page_table.shape[1] * S
        ends = lengths.clamp(min=1).long()[:, None, None]  # nobody's row looks at one token, whatever that is
        masks: Masks = {window: _hide(ends, longest, window, self.shape.dtype) for window in self.shape.kinds}
        gather = Gather(pieces, grain, len(lengths), 1, longest, masks)
        share_buffer([gather], cache)
        return [gather]

    def most_fixed_rows(self, tokens: int, kv_cache: KVCache) -> int:
        """So many that the gather of whole page tables stays small."""
        a_token = kv_cache.spec.bytes_per_token // len(kv_cache)  # in one layer
        return max(FIXED_GATHER // (tokens * a_token), 1)

    def attend(self, layer: int, q: Tensor, batch: ForwardBatch) -> Tensor:
        """``q [T, H, D]`` -> ``[T, H * D]``."""
        T, H, D = q.shape
        plans, singles = batch.plan, batch.num_single
        if singles == T and len(plans) == 1:
            return self.decode(layer, q, batch, plans[0])
        out, start = q.new_empty(T, H, D), 0
        for plan in plans:
            end = start + plan.num_requests * plan.queries
            if start < singles:
                out[start:end] = self.decode(layer, q[start:end], batch, plan).view(-1, H, D)
            else:
                out[start:end] = self.prefill(layer, q[start:end], batch, plan)
            start = end
        return out.view(T, H * D)

    def decode(self, layer: int, q: Tensor, batch: ForwardBatch, gather: Any) -> Tensor:
        """One query a request: ``q [R, H, D]`` -> ``[R, H * D]``.

        The heads that share one key/value head are taken as that head's queries: no key is copied for them.
        """
        R, H, D = q.shape
        scale, mask = self.shape.scale, gather.masks[self.shape.windows[layer]]
        k, v = gather_kv(layer, batch, gather)  # [R, Hkv, C, D]
        grouped = q.reshape(R, k.shape[1], H // k.shape[1], D)  # [R, Hkv, H / Hkv, D]
        return scaled_dot_product_attention(grouped, k, v, attn_mask=mask, scale=scale).reshape(R, H * D)

    def prefill(self, layer: int, q: Tensor, batch: ForwardBatch, gather: Gather) -> Tensor:
        """Several queries of one request, the last of its context: ``q [Tq, H, D]`` -> ``[Tq, H, D]``."""
        scale, mask = self.shape.scale, gather.masks[self.shape.windows[layer]]
        k, v = gather_kv(layer, batch, gather)  # [1, Hkv, C, D]
        queries = q.transpose(0, 1)[None]  # [1, H, Tq, D]
        out = scaled_dot_product_attention(
            queries, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=k.shape[1] != q.shape[1]
        )
        return out[0].transpose(0, 1)


def gather_kv(layer: int, batch: ForwardBatch, gather: Gather) -> tuple[Tensor, Tensor]:
    """The keys and values of some requests, out of their pages: two ``[R, Hkv, C, D]`` views of one contiguous copy."""
    cache = batch.kv_cache[layer]
    Hkv, D = cache.num_kv_heads, cache.head_dim
    pieces = cache.slots.view(-1, gather.grain * 2 * Hkv * D)
    probe.on and probe("kv.gather", layer=layer, gather=gather, batch=batch)
    if gather.first is not None:
        flat = pieces.narrow(0, gather.first, len(gather.pieces))
    else:
        flat = torch.index_select(pieces, 0, gather.pieces, out=gather.buffer)
    kv = flat.view(gather.num_requests, -1, 2, Hkv, D)[:, : gather.longest]  # [R, C, 2, Hkv, D]
    return kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)


def plan_gather(shape: AttentionShape, batch: ForwardBatch, first: int, last: int) -> Gather:
    """Which pieces requests ``first`` to ``last - 1`` need, and the masks that hide what is not theirs to see."""
    S = batch.kv_cache.page_size
    grain = gcd(S, GRAIN)
    lengths, queries = batch.context_lens[first:last], batch.query_lens[first]
    longest = max(lengths)
    n, within = -(-longest // grain), S // grain  # pieces a request, pieces a page
    table = batch.page_table[first:last, : -(-n // within)]  # [R, pages]
    pieces = _pieces(table, within)[:, :n].reshape(-1)
    start = _side_by_side(pieces) if last - first == 1 else None
    masks = plan_masks(shape, lengths, queries, batch.page_table.device)
    return Gather(pieces, grain, last - first, queries, longest, masks, start)


def plan_masks(shape: AttentionShape, lengths: list[int], queries: int, device: torch.device) -> Masks:
    """For each kind of layer ``[R, 1, queries, longest]``: 0 where query i (position ``length - queries + i``) may
    look, -inf elsewhere; or None where it may look at all there is before it."""
    longest = max(lengths)
    hides = min(lengths) < longest or 1 < queries < longest  # a whole prompt needs no mask: causality says it all
    narrow = {window: window if window is not None and window < longest else None for window in shape.kinds}
    if not hides and not any(narrow.values()):
        return dict.fromkeys(shape.kinds)
    later = torch.arange(queries - 1, -1, -1, device=device)
    ends = (torch.tensor(lengths, device=device)[:, None] - later)[:, :, None]  # [R, queries, 1]
    made: Masks = {
        window: _hide(ends, longest, window, shape.dtype) if hides or window else None
        for window in set(narrow.values())
    }
    return {window: made[own] for window, own in narrow.items()}


def share_buffer(gathers: list[Gather], cache: KVCache) -> None:
    """One piece of memory for all copies of a step: each is looked at before the next is made."""
    copies = [gather for gather in gathers if gather.first is None]
    if copies:
        width = copies[0].grain * cache[0].slots.shape[1]
        buffer = cache.tensor.new_empty(max(len(gather.pieces) for gather in copies), width)
        for gather in copies:
            gather.buffer = buffer[: len(gather.pieces)]


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


def _hide(ends: Tensor, longest: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """``[R, 1, queries, longest]``: 0 for keys before ``ends [R, queries, 1]`` and in the window, -inf for others."""
    keys = torch.arange(longest, device=ends.device)
    hidden = keys >= ends  # [R, queries, longest]
    if window is not None:
        hidden |= keys < ends - window
    return torch.zeros(hidden.shape, dtype=dtype, device=ends.device).masked_fill_(hidden, float("-inf"))[:, None]


def load(shape: AttentionShape, kernels: TorchKernels, cache: KVCache) -> tuple[GatherAttention, str]:
    return GatherAttention(shape), "plain torch, which runs anywhere"
