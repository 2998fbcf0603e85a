"""Attention of one query a request over its pages, on a GPU (flash-decoding, Dao et al. 2023).

A program takes one request, one key/value head and one split of the context, and keeps a running softmax over it. The
query heads that share the key/value head are the rows of one small matrix product (padded to 16: the least that the
matrix unit takes), so that a key is read once for all of them. With several splits, the program of a request and head
that finishes last puts the parts together. `torch_attention` does the same in plain torch.

The comments ``# probe(...)`` are probes where Triton's interpreter runs a kernel: see `comment_probes`.
In there, what is loaded is a numpy array: ``scores.handle.data``.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from minillm.kernels.triton.comment_probes import watched
from minillm.kernels.triton.early import how, let_next_start, wait_for_last

MOST_SPLITS = 32
MERGED = 2**14  # numbers of parts that are put together at a time: they stay in registers
NO_WINDOW = 2**30
HIDDEN = tl.constexpr(-1e30)  # a masked score: finite, so that a row that has seen nothing yet gives 0, not NaN


@dataclass(frozen=True)
class Tile:
    """What one program holds at a time (tokens, or rows of queries by tokens), and how Triton runs it."""

    tokens: int
    warps: int
    stages: int
    rows: int = 16


@triton.jit
def slots_of(table, positions, inside, PAGE: tl.constexpr):
    """``positions [n]`` of a request, ``table`` its row of pages -> slots ``[n]``, int64: a cache outgrows 32 bits."""
    pages = tl.load(table + positions // PAGE, mask=inside, other=0).to(tl.int64)
    return pages * PAGE + positions % PAGE


@watched
@triton.jit
def add_block(scores, v, top, total, acc, PRECISION: tl.constexpr):
    """Running softmax: ``scores [M, n]`` in powers of two, ``v [n, D]``. What was summed under a lower maximum is
    corrected."""
    new_top = tl.maximum(top, tl.max(scores, axis=1))  # [M]
    weights = tl.exp2(scores - new_top[:, None])  # [M, n], 1 at most
    fix = tl.exp2(top - new_top)  # [M], 1 where the maximum has not grown
    # probe("kernel.softmax", scores=scores, top=top, new_top=new_top, weights=weights, fix=fix, total=total)
    total = total * fix + tl.sum(weights, axis=1)
    acc = tl.dot(weights.to(v.dtype), v, acc * fix[:, None], input_precision=PRECISION)
    return new_top, total, acc


@watched
@triton.jit(do_not_specialize=["window", "table_row"])  # they change from step to step: no new variant for that
def _paged_decode(
    q, cache, page_table, lengths, split_blocks, out, parts, tops, totals, arrivals, window, scale, q_row, q_head,
    table_row, HKV: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, SPLITS: tl.constexpr,
    PROGRAMS: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, HEADS: tl.constexpr,
    PRECISION: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Key/value head ``program_id(0)``, split ``(1)`` of request ``(2)``; see `paged_decode` for the shapes."""
    let_next_start(EARLY)
    head, split, request = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    # 1. Which tokens are this program's: blocks are dealt out to splits, `each` of them to one.
    length = tl.load(lengths + request)
    start = tl.maximum(length - window, 0)
    blocks = tl.cdiv(length - start, BLOCK)
    each = tl.load(split_blocks)  # blocks a split should take, worked out for layers without a window
    if window < length:
        each = tl.cdiv(tl.num_programs(2) * HKV * tl.cdiv(window, BLOCK), PROGRAMS)
    each = tl.maximum(tl.maximum(each, tl.cdiv(blocks, SPLITS)), 1)
    busy = tl.cdiv(blocks, each)  # splits with something to do; the others end here
    wait_for_last(EARLY)
    # probe("kernel.program", head=head, split=split, request=request, length=length, each=each, busy=busy)
    if split < tl.maximum(busy, 1):
        # 2. The queries of the heads that share this key/value head, a row each; nothing is seen yet.
        row, d = tl.arange(0, M), tl.arange(0, BLOCK_D)
        rows = (row < GROUP)[:, None] & (d < D)[None, :]
        at_q = q + request.to(tl.int64) * q_row + (head * GROUP + row)[:, None] * q_head + d[None, :]
        queries = tl.load(at_q, mask=rows, other=0.0)  # [M, BLOCK_D]; rows and columns beyond the real ones are 0
        top, total = tl.full([M], HIDDEN, tl.float32), tl.zeros([M], tl.float32)
        acc = tl.zeros([M, BLOCK_D], tl.float32)
        first = start + split * each * BLOCK
        last = tl.minimum(first + each * BLOCK, length)
        table = page_table + request.to(tl.int64) * table_row
        # 3. Block by block: the page table says where its keys and values lie, and the sums take them in.
        for at in range(first, last, BLOCK):
            positions = at + tl.arange(0, BLOCK)
            seen = positions < last  # the last block is seldom full
            slots = slots_of(table, positions, seen, PAGE)
            # probe("kernel.pages", at=at, last=last, positions=positions, seen=seen, slots=slots)
            keys = cache + slots[:, None] * (2 * HKV * D) + head * D + d[None, :]
            there = seen[:, None] & (d < D)[None, :]
            k = tl.load(keys, mask=there, other=0.0)  # [BLOCK, D]
            v = tl.load(keys + HKV * D, mask=there, other=0.0)
            scores = tl.dot(queries, tl.trans(k), input_precision=PRECISION) * scale  # [M, BLOCK]
            scores = tl.where(seen[None, :], scores, HIDDEN)
            # probe("kernel.scores", at=at, queries=queries, k=k, v=v, scores=scores, top=top, total=total)
            top, total, acc = add_block(scores, v, top, total, acc, PRECISION)
        # 4. Done, if there is one split. Else leave the part for whoever finishes last.
        at_out = out + request.to(tl.int64) * (HKV * GROUP * D) + (head * GROUP + row)[:, None] * D + d[None, :]
        if busy <= 1:  # a request without context, which is padding, has a total of 0 and gets zeros
            tl.store(at_out, (acc / tl.maximum(total, 1e-30)[:, None]).to(out.dtype.element_ty), mask=rows)
        else:
            group = (request * HKV + head) * GROUP
            part = (group + row) * SPLITS + split
            # probe("kernel.part", head=head, split=split, top=top, total=total, acc=acc)
            tl.store(parts + part.to(tl.int64)[:, None] * BLOCK_D + d[None, :], acc, mask=rows)
            tl.store(tops + part, top, mask=row < GROUP)
            tl.store(totals + part, total, mask=row < GROUP)
            tl.debug_barrier()  # all of this program's parts are written before it says so
            if tl.atomic_add(arrivals + request * HKV + head, 1, sem="acq_rel") == busy - 1:
                tl.store(arrivals + request * HKV + head, 0)  # as the next layer wants to find it
                _merge(out, parts, tops, totals, group, busy, GROUP, D, SPLITS, BLOCK_D, HEADS)


@watched
@triton.jit
def _merge(
    out, parts, tops, totals, group, busy,
    GROUP: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, BLOCK_D: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """The parts of ``GROUP`` query heads, from number ``group`` on: [SPLITS, D] -> [D], ``HEADS`` of them at a time."""
    split, d = tl.arange(0, SPLITS), tl.arange(0, BLOCK_D)
    for first in range(0, GROUP, HEADS):
        head = first + tl.arange(0, HEADS)
        part = (group + head)[:, None] * SPLITS + split[None, :]
        there = (head < GROUP)[:, None] & (split < busy)[None, :]  # [HEADS, SPLITS]
        # .cg: not from this processor's own cache, which does not see what others wrote meanwhile.
        top = tl.load(tops + part, mask=there, other=HIDDEN, cache_modifier=".cg")
        total = tl.load(totals + part, mask=there, other=0.0, cache_modifier=".cg")
        at = parts + part.to(tl.int64)[:, :, None] * BLOCK_D + d[None, None, :]
        inside = there[:, :, None] & (d < D)[None, None, :]
        values = tl.load(at, mask=inside, other=0.0, cache_modifier=".cg")  # [HEADS, SPLITS, D]
        weights = tl.exp2(top - tl.max(top, axis=1)[:, None])  # [HEADS, SPLITS]
        # probe("kernel.merge", busy=busy, top=top, total=total, weights=weights, values=values)
        whole = tl.maximum(tl.sum(total * weights, axis=1), 1e-30)
        merged = tl.sum(values * weights[:, :, None], axis=1) / whole[:, None]
        at_out = out + (group + head).to(tl.int64)[:, None] * D + d[None, :]
        kept = (head < GROUP)[:, None] & (d < D)[None, :]
        tl.store(at_out, merged.to(out.dtype.element_ty), mask=kept)


@dataclass
class Scratch:
    """Where splits leave their parts: parts [R * H * splits, D padded] float32, tops and totals [R * H * splits],
    arrivals [R * Hkv] int32, all zero between kernels."""

    parts: Tensor
    tops: Tensor
    totals: Tensor
    arrivals: Tensor


def decode_tile(itemsize: int, head_dim: int, few: bool) -> Tile:
    """What fits into a processor's registers and shared memory, and was fastest on an H200.

    few: so few requests that their contexts are cut into many splits, on a GPU with as much shared memory.
    """
    if itemsize > 2 or head_dim > 128:
        return Tile(tokens=32, warps=4, stages=2)
    return Tile(tokens=128, warps=4, stages=1) if few else Tile(tokens=64, warps=2, stages=2)


def paged_decode(
    q: Tensor,
    cache: Tensor,
    page_table: Tensor,
    lengths: Tensor,
    split_blocks: Tensor,
    splits: int,
    tile: Tile,
    programs: int,
    scratch: Scratch,
    out: Tensor,
    page_size: int,
    num_kv_heads: int,
    scale: float,
    window: int | None = None,
) -> None:
    """Attention of ``q [R, H, D]`` over ``cache [P * S, 2 * Hkv * D]`` into ``out [R, H * D]``.

    page_table [R, pages]; lengths [R] int32: tokens each request sees, 0 for a padding row, which gets zeros.
    splits: into how many a context may be cut (a power of two), split_blocks [1] int32: how many blocks of
    ``tile.tokens`` a split should have. programs: how many make the GPU busy.
    """
    R, H, D = q.shape
    group, padded = H // num_kv_heads, max(triton.next_power_of_2(D), 16)
    merged = min(max(MERGED // (splits * padded), 1), triton.next_power_of_2(group))
    _paged_decode[(num_kv_heads, splits, R)](
        q, cache, page_table, lengths, split_blocks, out, scratch.parts, scratch.tops, scratch.totals,
        scratch.arrivals, window or NO_WINDOW, scale * 1.4426950408889634, q.stride(0), q.stride(1),
        page_table.stride(0), num_kv_heads, group, D, page_size, splits, programs,
        max(triton.next_power_of_2(group), 16), tile.tokens, padded, merged,
        "ieee" if q.itemsize == 4 else "tf32", num_warps=tile.warps, num_stages=tile.stages,
        **how(q.device),
    )  # fmt: skip
