"""The oracle of all backends, against attention written out number by number; and what it reads of small caches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from paged import make_batch, make_cache, make_shape, shuffled_pages
from torch import Tensor

from minillm.attention.naive import NaiveAttention


def dense(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None = None) -> Tensor:
    """``q [Tq, H, D]``, the last of a sequence with ``k, v [C, Hkv, D]`` -> ``[Tq, H * D]``, number by number."""
    Tq, H, D = q.shape
    C, Hkv, _ = k.shape
    out = torch.empty(Tq, H, D)
    for i in range(Tq):
        seen = C - Tq + i + 1
        first = max(0, seen - window) if window else 0
        for h in range(H):
            keys, values = k[first:seen, h // (H // Hkv)], v[first:seen, h // (H // Hkv)]
            scores = (keys @ q[i, h]) * scale
            out[i, h] = torch.softmax(scores, dim=0) @ values
    return out.reshape(Tq, H * D)


LENGTHS = [(1, 1), (20, 1), (12, 12), (50, 9), (3, 2)]


def attend(
    dtype: torch.dtype, windows: list[int | None], heads: tuple[int, int], page_size: int, seed: int
) -> list[tuple[Tensor, Tensor]]:
    """Of each layer, what naive attention gives over a cache of ``dtype`` (its float32 queries), and what is right."""
    torch.manual_seed(seed)
    (H, Hkv), D = heads, 8
    shape = make_shape(H, Hkv, D, windows, scale=0.3)
    cache = make_cache(make_shape(H, Hkv, D, windows, dtype=dtype), 90, page_size)
    table = shuffled_pages(cache, LENGTHS, seed)
    batch = make_batch(cache, LENGTHS, table, NaiveAttention(shape))
    found = []
    for layer, window in enumerate(windows):
        q, right = torch.randn(sum(count for _, count in LENGTHS), H, D), []
        for row, piece, (context, _) in zip(table, q.split(batch.query_lens), LENGTHS):
            at, (k, v) = torch.arange(context), torch.randn(2, context, Hkv, D)
            cache[layer].store(row[at // page_size] * page_size + at % page_size, k, v)
            right.append(dense(piece, k, v, 0.3, window))
        batch.plan = batch.backend.prepare(batch)
        found.append((batch.backend.attend(layer, q, batch), torch.cat(right)))
    return found


@given(
    windows=st.lists(st.none() | st.integers(1, 60), min_size=1, max_size=3),
    heads=st.sampled_from([(1, 1), (4, 4), (6, 2), (6, 1)]),
    page_size=st.sampled_from([1, 3, 16, 64]),
    seed=st.integers(0, 1000),
)
def test_it_is_attention(windows: list[int | None], heads: tuple[int, int], page_size: int, seed: int) -> None:
    for got, right in attend(torch.float32, windows, heads, page_size, seed):
        torch.testing.assert_close(got, right, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.int8, 0.03), (torch.float8_e4m3fn, 0.2)]
)
def test_a_smaller_cache_is_read_as_it_was_meant(dtype: torch.dtype, tolerance: float) -> None:
    for got, right in attend(dtype, [None, 7], (6, 2), 16, 1):
        torch.testing.assert_close(got, right, atol=tolerance, rtol=tolerance)
        assert not torch.equal(got, right)
