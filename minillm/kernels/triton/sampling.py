"""A token for each row of logits on a GPU, without sorting and without waiting: two launches, the logits read once.

The first kernel gives each block of the vocabulary its maximum and its share of the softmax. The second finds, for each
row, the block in which the running sum passes the random number, and then the token in that block: inverse transform
sampling, as `minillm.sampling.sampler.draw` does it, with the same random number from seed and position.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from minillm.kernels.triton.early import how, let_next_start, wait_for_last

BLOCK = 2048


@triton.jit
def _blocks(logits, temperature, tops, sums, likeliest, V, BLOCKS, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """Block ``program_id(1)`` of row ``program_id(0)``: its largest scaled logit, where that is, and the sum of
    exponentials."""
    let_next_start(EARLY)
    row, block = tl.program_id(0), tl.program_id(1)
    column = block * BLOCK + tl.arange(0, BLOCK)
    temp = tl.load(temperature + row)
    wait_for_last(EARLY)
    x = tl.load(logits + row.to(tl.int64) * V + column, mask=column < V, other=float("-inf")).to(tl.float32)
    top, at = tl.max(x, axis=0, return_indices=True, return_indices_tie_break_left=True)
    scaled = (x - top) / tl.where(temp > 0, temp, 1.0)
    total = tl.sum(tl.where(x == float("-inf"), 0.0, tl.exp(scaled)), axis=0)
    tl.store(tops + row * BLOCKS + block, top)
    tl.store(sums + row * BLOCKS + block, total)
    tl.store(likeliest + row * BLOCKS + block, block * BLOCK + at)


@triton.jit
def _choose(
    logits, temperature, seeds, positions, tops, sums, likeliest, out, last_tokens, seats, V, BLOCKS,
    BLOCK: tl.constexpr, KEEP: tl.constexpr, MANY: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The token of row ``program_id(0)``."""
    let_next_start(EARLY)
    row = tl.program_id(0)
    block = tl.arange(0, MANY)
    inside = block < BLOCKS
    temp = tl.load(temperature + row)
    scale = tl.where(temp > 0, temp, 1.0)
    wait_for_last(EARLY)
    top = tl.load(tops + row * BLOCKS + block, mask=inside, other=float("-inf"))
    highest = tl.max(top, axis=0)
    mass = tl.load(sums + row * BLOCKS + block, mask=inside, other=0.0).to(tl.float64)
    mass = mass * tl.where(inside & (top > float("-inf")), tl.exp((top - highest) / scale), 0.0).to(tl.float64)
    running = tl.cumsum(mass, axis=0)
    point = _uniform(tl.load(seeds + row), tl.load(positions + row).to(tl.int64)) * tl.sum(mass, axis=0)
    last = tl.max(tl.where(mass > 0, block, 0), axis=0)  # rounding must not step past the last that is possible
    chosen = tl.minimum(tl.sum((running <= point).to(tl.int32), axis=0), last)
    before = tl.sum(tl.where(block < chosen, mass, 0.0), axis=0)
    column = chosen * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + row.to(tl.int64) * V + column, mask=column < V, other=float("-inf")).to(tl.float32)
    share = tl.where(x == float("-inf"), 0.0, tl.exp((x - highest) / scale)).to(tl.float64)
    passed = before + tl.cumsum(share, axis=0) <= point
    last_one = tl.max(tl.where(share > 0, tl.arange(0, BLOCK), 0), axis=0)
    drawn = chosen * BLOCK + tl.minimum(tl.sum(passed.to(tl.int32), axis=0), last_one)
    first = tl.min(tl.where(top == highest, block, MANY), axis=0)  # greedy: the first of the likeliest
    greedy = tl.load(likeliest + row * BLOCKS + first)
    token = tl.where(temp > 0, drawn, greedy).to(tl.int64)
    tl.store(out + row, token)
    if KEEP:
        tl.store(last_tokens + tl.load(seats + row), token)


@triton.jit
def _uniform(seed, position):
    """As `minillm.sampling.sampler.uniform_from`: a float64 in (0, 1) from two int64."""
    z = seed.to(tl.uint64, bitcast=True) + (position.to(tl.uint64, bitcast=True) + 1) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    return ((z >> 12).to(tl.float64) + 0.5) * 2.220446049250313e-16  # 2 ** -52


def sample_rows(
    logits: Tensor,
    temperature: Tensor,
    seeds: Tensor,
    positions: Tensor,
    last_tokens: Tensor | None = None,
    seats: Tensor | None = None,
) -> Tensor:
    """``logits [R, V]`` of any float kind -> tokens ``[R]`` int64. temperature [R] float32, 0 is greedy; seeds [R]
    int64; positions [R]: where the tokens will stand. They are kept in ``last_tokens [seats]``, too, at ``seats [R]``.
    """
    R, V = logits.shape
    blocks = triton.cdiv(V, BLOCK)
    tops, sums = torch.empty(2, R, blocks, device=logits.device).unbind()
    likeliest = torch.empty(R, blocks, dtype=torch.int32, device=logits.device)
    out = torch.empty(R, dtype=torch.int64, device=logits.device)
    _blocks[(R, blocks)](logits, temperature, tops, sums, likeliest, V, blocks, BLOCK, num_warps=8, **how(out.device))
    _choose[(R,)](
        logits, temperature, seeds, positions, tops, sums, likeliest, out, last_tokens, seats, V, blocks,
        BLOCK, last_tokens is not None, triton.next_power_of_2(blocks), num_warps=8, **how(out.device),
    )  # fmt: skip
    return out
