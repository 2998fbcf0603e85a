"""One possible answer to build 2: a program for each request and key/value head, block by block, softmax as it goes."""

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 32


@triton.jit
def decode(
    q, keys, values, table, lengths, out, scale, q_row, q_head, kv_page, kv_slot, kv_head, table_row,
    S: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, M: tl.constexpr, WIDE: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Key/value head ``program_id(0)`` of request ``(1)``. The query heads that share it are the rows of a matrix."""
    head, request = tl.program_id(0), tl.program_id(1).to(tl.int64)
    length = tl.load(lengths + request)
    row, d = tl.arange(0, M), tl.arange(0, WIDE)
    heads = head * GROUP + row
    real = (row < GROUP)[:, None] & (d < D)[None, :]
    queries = tl.load(q + request * q_row + heads[:, None] * q_head + d[None, :], mask=real, other=0.0)
    top = tl.full([M], -1e30, tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, WIDE], tl.float32)
    for first in range(0, length, N):
        at = first + tl.arange(0, N)
        seen = at < length
        pages = tl.load(table + request * table_row + at // S, mask=seen, other=0).to(tl.int64)
        places = (pages * kv_page + at % S * kv_slot + head * kv_head)[:, None] + d[None, :]
        there = seen[:, None] & (d < D)[None, :]
        k = tl.load(keys + places, mask=there, other=0.0)
        v = tl.load(values + places, mask=there, other=0.0)
        scores = tl.dot(queries, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, -1e30)
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp(scores - new_top[:, None])
        fix = tl.exp(top - new_top)
        total = total * fix + tl.sum(weights, axis=1)
        acc = acc * fix[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = new_top
    answer = acc / tl.maximum(total, 1e-30)[:, None]
    at_out = (request * tl.num_programs(0) * GROUP + heads)[:, None] * D + d[None, :]
    tl.store(out + at_out, answer.to(out.dtype.element_ty), mask=real)


def paged_decode(
    q: Tensor, keys: Tensor, values: Tensor, page_table: Tensor, lengths: Tensor, scale: float, out: Tensor
) -> None:
    R, H, D = q.shape
    _, S, heads, _ = keys.shape
    group = H // heads
    decode[(heads, R)](
        q, keys, values, page_table, lengths, out, scale, q.stride(0), q.stride(1), *keys.stride()[:3],
        page_table.stride(0), S, group, D, max(triton.next_power_of_2(group), 16),
        max(triton.next_power_of_2(D), 16), BLOCK,
    )  # fmt: skip
