"""RMSNorm on a GPU: one program a row reads it once, adds the residual, writes the stream and the normalised row."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from minillm.kernels.triton.early import how, let_next_start, wait_for_last

MOST_COLUMNS = 65536  # a row is held in registers, whole


@triton.jit
def _rms_norm(x, add, weight, out, size, eps, offset, ADDS: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """Row ``program_id``: ``x [T, size]`` takes up ``add``; ``out`` gets it normalised. All rows lie together."""
    let_next_start(EARLY)
    row = tl.program_id(0).to(tl.int64) * size
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    w = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32) + offset
    wait_for_last(EARLY)
    values = tl.load(x + row + columns, mask=inside, other=0.0)
    if ADDS:
        more = tl.load(add + row + columns, mask=inside, other=0.0)
        # Rounded as the stream is kept, so that what is normalised is what is stored.
        values = (values.to(tl.float32) + more.to(tl.float32)).to(x.dtype.element_ty)
        tl.store(x + row + columns, values, mask=inside)
    numbers = values.to(tl.float32)
    scale = tl.rsqrt(tl.sum(numbers * numbers) / size + eps)
    tl.store(out + row + columns, (numbers * scale * w).to(out.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float, add: Tensor | None) -> Tensor:
    """``x [T, size]`` -> the same shape; ``add [T, size]`` is added to ``x`` first, in place."""
    rows, size = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(size)
    warps = min(max(block // 512, 1), 16)
    _rms_norm[(rows,)](x, add, weight, out, size, eps, offset, add is not None, block, num_warps=warps, **how(x.device))
    return out
