"""The gate of a feed-forward network on a GPU: ``act(gate) * up``, read once, written once."""

import triton
import triton.language as tl
from torch import Tensor

from minillm.kernels.triton.early import how, let_next_start, wait_for_last

BLOCK = 1024
GATES = ("silu", "gelu", "gelu_pytorch_tanh", "relu")


@triton.jit
def activate(gate, ACT: tl.constexpr):
    """``act(gate)``, of any shape, in float32."""
    if ACT == "silu":
        active = gate * tl.sigmoid(gate)
    elif ACT == "gelu":
        active = 0.5 * gate * (1 + tl.erf(gate * 0.7071067811865476))
    elif ACT == "gelu_pytorch_tanh":
        # tanh(z) = 2 sigmoid(2 z) - 1, so that 0.5 (1 + tanh(z)) is sigmoid(2 z).
        active = gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    else:
        active = tl.maximum(gate, 0.0)  # relu
    return active


@triton.jit
def _gated_activation(gate_up, out, size, ACT: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """``BLOCK`` columns of one row: ``gate_up [T, 2 * size]`` -> ``out [T, size]``."""
    let_next_start(EARLY)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    wait_for_last(EARLY)
    gate = tl.load(gate_up + row * 2 * size + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * size + columns, (activate(gate, ACT) * up).to(out.dtype.element_ty), mask=inside)


def gated_activation(gate_up: Tensor, act: str) -> Tensor:
    """``gate_up [T, 2 * I]`` -> ``act(gate) * up [T, I]``."""
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, size)
    block = min(BLOCK, triton.next_power_of_2(size))
    grid = (rows, triton.cdiv(size, block))
    _gated_activation[grid](gate_up, out, size, act, block, num_warps=4, **how(out.device))
    return out
