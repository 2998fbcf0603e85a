"""The decode kernel's twin in plain torch: attention of one query a request, block by block and split by split.

It does what `kernels.triton.attention` does on a GPU, in the same order, and is its oracle: nothing is gathered, no
more than one block of scores is ever held, and a long context is cut into splits that know nothing of each other. There
a program takes one key/value head; here torch takes all heads at once.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from minillm.probe import probe


def online_softmax(blocks: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax and the weighted sum of values in one pass over blocks of tokens; each is seen once, and let go.

    blocks: for each block its scores ``[Hkv, G, n]`` and values ``[Hkv, n, D]``. There is one at least, and the number
    of tokens ``n`` may differ. ``G`` query heads share a key/value head.

    Gives ``top [Hkv, G]``, the largest score; ``total [Hkv, G]``, the sum of ``exp(score - top)``; and
    ``acc [Hkv, G, D]``, the values times ``exp(score - top)``, added up. Attention is ``acc / total``.
    """
    top, total, acc = torch.tensor(float("-inf")), torch.tensor(0.0), torch.tensor(0.0)
    for scores, values in blocks:
        new_top = torch.maximum(top, scores.amax(dim=-1))  # [Hkv, G]
        fix = (top - new_top).exp()  # what was summed under a lower maximum is too large by this
        weights = (scores - new_top[..., None]).exp()  # [Hkv, G, n], 1 at most: nothing can overflow
        total = total * fix + weights.sum(dim=-1)
        acc = acc * fix[..., None] + weights @ values
        probe.on and probe("attention.block", scores=scores, new_top=new_top, fix=fix, total=total, acc=acc)
        top = new_top
    return top, total, acc


def combine_splits(tops: Tensor, totals: Tensor, accs: Tensor) -> Tensor:
    """Attention over a context, from what `online_softmax` gave for each of its splits.

    ``tops [splits, Hkv, G]``, ``totals [splits, Hkv, G]``, ``accs [splits, Hkv, G, D]`` -> ``[Hkv, G, D]``.
    """
    weights = (tops - tops.amax(dim=0)).exp()  # [splits, Hkv, G]: as `fix`, for all splits at once
    probe.on and probe("attention.combine", tops=tops, totals=totals, weights=weights)
    total = (totals * weights).sum(dim=0)
    return (accs * weights[..., None]).sum(dim=0) / total[..., None]


def read_block(
    q: Tensor, cache: Tensor, pages: Tensor, first: int, last: int, page_size: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Scores and values of the tokens at positions ``first`` to ``last - 1``, read through the page table.

    ``q [Hkv, G, D]``: a request's queries. ``cache [P * S, 2 * Hkv * D]``: a row a slot; the keys of all heads, then
    their values. ``pages [n]``: the request's page table. Gives scores ``[Hkv, G, n]`` and values ``[Hkv, n, D]``.
    """
    Hkv, _, D = q.shape
    positions = torch.arange(first, last, device=q.device)
    slots = pages[positions // page_size] * page_size + positions % page_size
    probe.on and probe("attention.read", positions=positions, slots=slots, pages=pages)
    keys, values = cache[slots].view(-1, 2, Hkv, D).to(q.dtype).permute(1, 2, 0, 3)  # [Hkv, n, D] each
    return q @ keys.transpose(1, 2) * scale, values


def paged_decode(
    q: Tensor, cache: Tensor, page_table: Tensor, lengths: list[int], page_size: int, scale: float,
    block: int, blocks_a_split: int, window: int | None = None,
) -> Tensor:  # fmt: skip
    """Attention of ``q [R, Hkv, G, D]``, one token a request, over ``cache [P * S, 2 * Hkv * D]`` -> the same shape.

    page_table [R, pages]; lengths: tokens that each request sees, of which the last ``window`` count if there is one.
    A request's tokens are cut into splits of ``blocks_a_split`` blocks of ``block`` tokens; the last ones may be
    shorter. On a GPU, splits run side by side.
    """
    out = torch.empty_like(q)
    for request, length in enumerate(lengths):
        start = max(length - window, 0) if window else 0
        parts = []
        for first in range(start, length, block * blocks_a_split):
            last = min(first + block * blocks_a_split, length)
            blocks = (
                read_block(q[request], cache, page_table[request], at, min(at + block, last), page_size, scale)
                for at in range(first, last, block)
            )
            parts.append(online_softmax(blocks))
        out[request] = combine_splits(*(torch.stack(one) for one in zip(*parts)))
    return out
