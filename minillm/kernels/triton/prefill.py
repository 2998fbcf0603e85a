"""Attention of many queries a request over its pages, on a GPU: FlashAttention-2 (Dao 2023) with pages for keys.

Prompts and chunks of any lengths go together: a program takes one block of queries of one request, and one key/value
head. Its rows are the block's tokens times the query heads that share the key/value head, so that a key is read once
for all of them.
"""

import triton
import triton.language as tl
from torch import Tensor

from minillm.kernels.triton.attention import HIDDEN, NO_WINDOW, Tile, add_block, slots_of


@triton.jit(do_not_specialize=["window", "table_row"])  # they change from step to step: no new variant for that
def _paged_prefill(
    q, cache, page_table, blocks, out, window, scale, q_row, q_head, table_row,
    HKV: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, WINDOWED: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Key/value head ``program_id(0)`` for block ``program_id(1)``; see `paged_prefill` for the shapes."""
    head = tl.program_id(0)
    block = blocks + tl.program_id(1) * 4
    request, token, place, count = tl.load(block), tl.load(block + 1), tl.load(block + 2), tl.load(block + 3)
    row, d = tl.arange(0, M), tl.arange(0, BLOCK_D)
    rows = (row // GROUP < count)[:, None] & (d < D)[None, :]
    tokens, heads = token.to(tl.int64) + row // GROUP, head * GROUP + row % GROUP
    queries = tl.load(q + tokens[:, None] * q_row + heads[:, None] * q_head + d[None, :], mask=rows, other=0.0)
    position = place + row // GROUP
    table = page_table + request.to(tl.int64) * table_row
    heads_keys = cache + head * D
    top = tl.full([M], HIDDEN, tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, BLOCK_D], tl.float32)
    # 1. Keys that every query of the block sees need no mask, unless a window ends somewhere among them.
    first, shared = 0, (place + 1) // N * N
    if WINDOWED:
        first = tl.maximum(place - window + 1, 0) // N * N
        shared = first
    for at in range(first, shared, N):
        keys = at + tl.arange(0, N)
        pointers = heads_keys + slots_of(table, keys, keys >= 0, PAGE)[:, None] * (2 * HKV * D) + d[None, :]
        k = tl.load(pointers, mask=(d < D)[None, :], other=0.0)  # [N, D]
        v = tl.load(pointers + HKV * D, mask=(d < D)[None, :], other=0.0)
        scores = tl.dot(queries, tl.trans(k), input_precision=PRECISION) * scale
        top, total, acc = add_block(scores, v, top, total, acc, PRECISION)
    # 2. The others: causality, the window, and the end of the request hide some.
    end = place + count
    for at in range(shared, end, N):
        keys = at + tl.arange(0, N)
        pointers = heads_keys + slots_of(table, keys, keys < end, PAGE)[:, None] * (2 * HKV * D) + d[None, :]
        there = (keys < end)[:, None] & (d < D)[None, :]
        k = tl.load(pointers, mask=there, other=0.0)
        v = tl.load(pointers + HKV * D, mask=there, other=0.0)
        scores = tl.dot(queries, tl.trans(k), input_precision=PRECISION) * scale
        seen = keys[None, :] <= position[:, None]
        if WINDOWED:
            seen = seen & (keys[None, :] > position[:, None] - window)
        top, total, acc = add_block(tl.where(seen, scores, HIDDEN), v, top, total, acc, PRECISION)
    at_out = out + tokens[:, None] * (HKV * GROUP * D) + heads[:, None] * D + d[None, :]
    tl.store(at_out, (acc / total[:, None]).to(out.dtype.element_ty), mask=rows)


def prefill_tile(itemsize: int, head_dim: int, group: int, roomy: bool) -> Tile:
    """What fits into a processor's registers and shared memory, and was fastest on an H200.

    group: query heads that share a key. roomy: the GPU has as much shared memory as that one.
    """
    if itemsize > 2:
        tile = Tile(rows=32, tokens=32, warps=4, stages=2)
    elif head_dim > 128:
        tile = Tile(rows=64, tokens=32, warps=4, stages=2)
    else:
        tile = Tile(rows=64, tokens=64, warps=4, stages=3 if roomy else 2)
    if group <= tile.rows:
        return tile
    return Tile(rows=triton.next_power_of_2(group), tokens=16, warps=8, stages=1)


def paged_prefill(
    q: Tensor,
    cache: Tensor,
    page_table: Tensor,
    blocks: Tensor,
    tile: Tile,
    out: Tensor,
    page_size: int,
    num_kv_heads: int,
    scale: float,
    window: int | None = None,
) -> None:
    """Attention of ``q [T, H, D]`` over ``cache [P * S, 2 * Hkv * D]`` into ``out [T, H * D]``.

    page_table [R, pages]. blocks [B, 4] int32: for each block of queries its request, its first token in [T], that
    token's place in its request, and how many tokens it has: at most ``tile.rows // (H / Hkv)``.
    """
    _, H, D = q.shape
    group = H // num_kv_heads
    _paged_prefill[(num_kv_heads, len(blocks))](
        q, cache, page_table, blocks, out, window or NO_WINDOW, scale * 1.4426950408889634, q.stride(0), q.stride(1),
        page_table.stride(0), num_kv_heads, group, D, page_size, window is not None, tile.rows, tile.tokens,
        max(triton.next_power_of_2(D), 16), "ieee" if q.itemsize == 4 else "tf32",
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
