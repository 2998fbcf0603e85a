"""What the flash-attn packages promise and refuse, in plain torch: how a backend calls them can so be tested anywhere.

The checks are those of their C++ (flash_api.cpp of 2.8.3 and of FlashAttention-3); the arithmetic is dense attention in
float64. Where a package is installed, the tests marked gpu run the real one over the same cases.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def stand_in(version: int, dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)) -> Any:
    """A module of this version; ``dtypes`` may be widened, to compare greedy tokens in float32."""

    def with_kvcache(
        q: Tensor, k_cache: Tensor, v_cache: Tensor, *, cache_seqlens: Tensor, softmax_scale: float, causal: bool,
        window_size: tuple[int, int], cu_seqlens_q: Tensor | None = None, max_seqlen_q: int | None = None,
        **table: Tensor,
    ) -> Tensor:  # fmt: skip
        """``q [R, n, H, D]``, or ``[T, H, D]`` with cu_seqlens_q (version 3) -> the same shape."""
        ((name, pages),) = table.items()
        assert name == {2: "block_table", 3: "page_table"}[version]
        check(q, k_cache, v_cache, pages, cache_seqlens, version, dtypes)
        if cu_seqlens_q is None:
            assert q.dim() == 4 and len(q) == len(pages)
            pieces = list(q)
        else:
            assert version == 3 and max_seqlen_q is not None
            pieces = pieces_of(q, cu_seqlens_q, max_seqlen_q)
        lengths, seen = cache_seqlens.tolist(), (window_size, causal)
        out = [dense(*one, softmax_scale, *seen) for one in zip(pieces, own(k_cache, v_cache, pages, lengths))]
        return (torch.stack(out) if cu_seqlens_q is None else torch.cat(out)).to(q.dtype)

    def varlen(
        q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
        max_seqlen_k: int, *, softmax_scale: float, causal: bool, window_size: tuple[int, int], block_table: Tensor,
    ) -> Tensor:  # fmt: skip
        """``q [T, H, D]`` -> ``[T, H, D]``."""
        lengths = cu_seqlens_k.diff()
        assert cu_seqlens_k.dtype == torch.int32 and cu_seqlens_k[0] == 0 and lengths.max() <= max_seqlen_k
        check(q, k, v, block_table, lengths, version, dtypes)
        pieces = pieces_of(q, cu_seqlens_q, max_seqlen_q)
        contexts = own(k, v, block_table, lengths.tolist())
        out = [dense(*one, softmax_scale, window_size, causal) for one in zip(pieces, contexts)]
        return torch.cat(out).to(q.dtype)

    more = {"flash_attn_varlen_func": varlen} if version == 2 else {}
    return SimpleNamespace(flash_attn_with_kvcache=with_kvcache, **more)


def check(
    q: Tensor, k: Tensor, v: Tensor, pages: Tensor, lengths: Tensor, version: int, dtypes: tuple[torch.dtype, ...]
) -> None:
    assert q.dtype in dtypes and k.dtype == v.dtype == q.dtype
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == pages.stride(-1) == 1
    assert k.shape == v.shape and k.dim() == 4
    assert version == 3 or k.shape[1] % 256 == 0, "Paged KV cache block size must be divisible by 256"
    assert q.shape[-2] % k.shape[2] == 0 and q.shape[-1] == k.shape[3] <= 256 and q.shape[-1] % 8 == 0
    assert pages.dtype == lengths.dtype == torch.int32 and lengths.is_contiguous()
    assert pages.dim() == 2 and lengths.shape == (len(pages),) and len(pages) > 0
    assert lengths.max() <= pages.shape[1] * k.shape[1]


def pieces_of(q: Tensor, starts: Tensor, most: int) -> list[Tensor]:
    """``q [T, H, D]``, ``starts [R + 1]`` -> each request's queries."""
    counts = starts.diff().tolist()
    assert q.dim() == 3 and starts.dtype == torch.int32 and starts.is_contiguous()
    assert starts[0] == 0 and starts[-1] == len(q) and min(counts) >= 1 and max(counts) <= most
    return list(q.split(counts))


def own(k: Tensor, v: Tensor, pages: Tensor, lengths: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Each request's keys and values, ``[C, Hkv, D]`` each, out of ``[P, S, Hkv, D]``."""
    needed = [-(-length // k.shape[1]) for length in lengths]
    rows = [row[:count].long() for row, count in zip(pages, needed)]
    return [(k[row].flatten(0, 1)[:C], v[row].flatten(0, 1)[:C]) for row, C in zip(rows, lengths)]


def dense(q: Tensor, kv: tuple[Tensor, Tensor], scale: float, window: tuple[int, int], causal: bool) -> Tensor:
    """``q [n, H, D]``, the last of a context ``[C, Hkv, D]`` -> ``[n, H, D]``; a side of -1 is open."""
    (n, H, _), (C, Hkv, _) = q.shape, kv[0].shape
    k, v = (tensor.double().repeat_interleave(H // Hkv, dim=1) for tensor in kv)
    before, after = window
    after = 0 if causal else after
    place, key = torch.arange(C - n, C, device=q.device)[:, None], torch.arange(C, device=q.device)
    hidden = (key < place - before) if before >= 0 else torch.zeros(n, C, dtype=torch.bool, device=q.device)
    if after >= 0:
        hidden = hidden | (key > place + after)
    scores = torch.einsum("qhd,chd->hqc", q.double(), k) * scale
    return torch.einsum("hqc,chd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)
