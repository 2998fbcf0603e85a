"""A few rows times a matrix on a GPU: every weight is read once, and nothing else takes time.

A matrix library cuts its work into tiles for many rows; with one row most of such a tile is empty. Here a program takes
a few output columns and reads their weights from front to back.
"""

import triton
import triton.language as tl
from torch import Tensor

from minillm.kernels.triton.activation import activate
from minillm.kernels.triton.early import how, let_next_start, wait_for_last

MOST_ROWS = 4


@triton.jit
def _few_rows_linear(
    x, weight, bias, out, N, K: tl.constexpr, ROWS: tl.constexpr, BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """``BLOCK_N`` columns of ``x [ROWS, K] @ weight[N, K].T``, each thread summing up its own share of K."""
    let_next_start(EARLY)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    weights = weight + column.to(tl.int64)[:, None] * K + k[None, :]  # [BLOCK_N, BLOCK_K]
    first = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    second, third, fourth = first, first, first  # one name a row: Triton has no list of tensors
    exists = (column < N)[:, None]
    coming = tl.load(weights, mask=exists & (k < K)[None, :], other=0.0)  # nobody writes weights: no need to wait
    wait_for_last(EARLY)
    for start in range(0, K, BLOCK_K):
        inside = k < K - start
        w = coming.to(tl.float32)
        coming = tl.load(weights + start + BLOCK_K, mask=exists & (k < K - start - BLOCK_K)[None, :], other=0.0)
        at = x + start + k
        first += w * tl.load(at, mask=inside, other=0.0).to(tl.float32)[None, :]
        if ROWS > 1:
            second += w * tl.load(at + K, mask=inside, other=0.0).to(tl.float32)[None, :]
        if ROWS > 2:
            third += w * tl.load(at + 2 * K, mask=inside, other=0.0).to(tl.float32)[None, :]
        if ROWS > 3:
            fourth += w * tl.load(at + 3 * K, mask=inside, other=0.0).to(tl.float32)[None, :]
    _finish(first, bias, out, column, N, BIAS)
    if ROWS > 1:
        _finish(second, bias, out + N, column, N, BIAS)
    if ROWS > 2:
        _finish(third, bias, out + 2 * N, column, N, BIAS)
    if ROWS > 3:
        _finish(fourth, bias, out + 3 * N, column, N, BIAS)


@triton.jit
def _finish(sums, bias, out, column, N, BIAS: tl.constexpr):
    """The shares ``sums [BLOCK_N, BLOCK_K]`` of one row, added up and stored."""
    y = tl.sum(sums, axis=1)
    if BIAS:
        y += tl.load(bias + column, mask=column < N, other=0.0).to(tl.float32)
    tl.store(out + column, y.to(out.dtype.element_ty), mask=column < N)


@triton.jit
def _one_row_gated(
    x, weight, bias, out, N, K: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """``BLOCK_N`` columns of ``act(x @ gate.T) * (x @ up.T)``: gate [N, K] stands above up [N, K] in ``weight``."""
    let_next_start(EARLY)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    of_gate = weight + column.to(tl.int64)[:, None] * K + k[None, :]  # [BLOCK_N, BLOCK_K]
    of_up = weight + (column.to(tl.int64) + N)[:, None] * K + k[None, :]
    gates = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    ups = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    exists = (column < N)[:, None]
    next_gate = tl.load(of_gate, mask=exists & (k < K)[None, :], other=0.0)  # nobody writes weights: no need to wait
    next_up = tl.load(of_up, mask=exists & (k < K)[None, :], other=0.0)
    wait_for_last(EARLY)
    for start in range(0, K, BLOCK_K):
        w_gate, w_up = next_gate.to(tl.float32), next_up.to(tl.float32)
        after = exists & (k < K - start - BLOCK_K)[None, :]
        next_gate = tl.load(of_gate + start + BLOCK_K, mask=after, other=0.0)
        next_up = tl.load(of_up + start + BLOCK_K, mask=after, other=0.0)
        numbers = tl.load(x + start + k, mask=k < K - start, other=0.0).to(tl.float32)[None, :]
        gates += w_gate * numbers
        ups += w_up * numbers
    gate, up = tl.sum(gates, axis=1), tl.sum(ups, axis=1)
    if BIAS:
        gate += tl.load(bias + column, mask=column < N, other=0.0).to(tl.float32)
        up += tl.load(bias + N + column, mask=column < N, other=0.0).to(tl.float32)
    tl.store(out + column, (activate(gate, ACT) * up).to(out.dtype.element_ty), mask=column < N)


def few_rows_is_faster(rows: int, N: int, K: int) -> bool:
    """Whether this is faster than cuBLAS, on an H200: always for one row; for more, where the matrix is small."""
    return rows == 1 or (rows == 2 and N * K < 2**25) or (rows <= MOST_ROWS and N * K < 2**22)


def shape_of(rows: int, K: int) -> tuple[int, int, int]:
    """Columns a program takes, how much of K it reads at a time, and warps: what was fastest on an H200."""
    if K <= 1024:
        return (4 if rows == 1 else 2), triton.next_power_of_2(K), 4
    if K < 4096:
        return (1, 1024, 4) if rows == 1 else (2, 1024, 4)
    if rows > 1:
        return 1, 2048, 4
    return (1, 2048, 8) if K < 8192 else (4, 1024, 8)


def few_rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x [T, K]`` with T up to `MOST_ROWS`, times ``weight [N, K]``, plus ``bias [N]`` -> ``[T, N]``."""
    rows, K = x.shape
    N = weight.shape[0]
    out = x.new_empty(rows, N)
    columns, block, warps = shape_of(rows, K)
    _few_rows_linear[(triton.cdiv(N, columns),)](
        x.contiguous(),
        weight,
        bias,
        out,
        N,
        K,
        rows,
        bias is not None,
        columns,
        block,
        num_warps=warps,
        **how(x.device),
    )
    return out


def one_row_gated(x: Tensor, weight: Tensor, bias: Tensor | None, act: str) -> Tensor:
    """``x [1, K]`` times gate and up, which are ``weight [2 * I, K]``, plus ``bias [2 * I]`` -> ``act(gate) * up``
    ``[1, I]``."""
    N, K = weight.shape[0] // 2, weight.shape[1]
    out = x.new_empty(1, N)
    columns, block, warps = shape_of(1, K)
    columns = 1 if columns == 1 else columns // 2  # for each, two rows of the matrix are read
    _one_row_gated[(triton.cdiv(N, columns),)](
        x.contiguous(), weight, bias, out, N, K, act, bias is not None, columns, block, num_warps=warps, **how(x.device)
    )
    return out
