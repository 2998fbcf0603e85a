"""What happens to queries, keys and values between projection and attention, in one kernel on a GPU.

Each head is read once: normalised if the model does that, turned by its token's position, written back; keys and values
go to the cache as well. A thread holds both numbers of a pair (and one program has the whole head), so nothing is
written that another thread still has to read.
"""

import triton
import triton.language as tl
from torch import Tensor

from minillm.kernels.triton.early import how, let_next_start, wait_for_last


@triton.jit
def _norm_rotate_store(
    qkv, q_weight, k_weight, cos, sin, cache, slots, eps, offset,
    H: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
    NORM: tl.constexpr, HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_REST: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """``HEADS`` heads of one token. ``a`` and ``b`` are the halves of what is turned, ``c`` is the rest of the head."""
    let_next_start(EARLY)
    token = tl.program_id(0).to(tl.int64)
    REST: tl.constexpr = D - 2 * HALF
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]  # [HEADS, 1]
    is_q, is_qk, is_v = head < H, head < H + HKV, head >= H + HKV
    exists = head < H + 2 * HKV
    at = qkv + token * (H + 2 * HKV) * D + head * D
    pair = tl.arange(0, BLOCK_HALF)[None, :]
    rest = 2 * HALF + tl.arange(0, BLOCK_REST)[None, :]
    pairs, rests = exists & (pair < HALF), exists & (rest < D)
    wait_for_last(EARLY)
    square = tl.zeros([HEADS, 1], tl.float32)
    if HALF:
        a = tl.load(at + pair, mask=pairs, other=0.0).to(tl.float32)
        b = tl.load(at + HALF + pair, mask=pairs, other=0.0).to(tl.float32)
        square += tl.sum(a * a + b * b, axis=1, keep_dims=True)
    if REST:
        c = tl.load(at + rest, mask=rests, other=0.0).to(tl.float32)
        square += tl.sum(c * c, axis=1, keep_dims=True)
    if NORM:
        scale = tl.rsqrt(square / D + eps)
        if HALF:
            a = _weighed(a, scale, q_weight, k_weight, pair, pair < HALF, is_q, is_v, offset)
            b = _weighed(b, scale, q_weight, k_weight, HALF + pair, pair < HALF, is_q, is_v, offset)
        if REST:
            c = _weighed(c, scale, q_weight, k_weight, rest, rest < D, is_q, is_v, offset)
    slot = tl.load(slots + token)
    kept = head >= tl.where(slot < 0, H + 2 * HKV, H)  # a padding row has a negative slot: nothing of it is kept
    into = cache + slot * (2 * HKV * D) + (head - H) * D
    kind = cache.dtype.element_ty
    if HALF:
        cos_a = tl.load(cos + token * 2 * HALF + pair, mask=pair < HALF, other=1.0).to(tl.float32)
        cos_b = tl.load(cos + token * 2 * HALF + HALF + pair, mask=pair < HALF, other=1.0).to(tl.float32)
        sin_a = tl.load(sin + token * 2 * HALF + pair, mask=pair < HALF, other=0.0).to(tl.float32)
        sin_b = tl.load(sin + token * 2 * HALF + HALF + pair, mask=pair < HALF, other=0.0).to(tl.float32)
        new_a = tl.where(is_v, a, a * cos_a + b * sin_a).to(kind)  # the first half of sin is negative
        new_b = tl.where(is_v, b, b * cos_b + a * sin_b).to(kind)
        tl.store(at + pair, new_a, mask=pairs & is_qk)
        tl.store(at + HALF + pair, new_b, mask=pairs & is_qk)
        tl.store(into + pair, new_a, mask=pairs & kept)
        tl.store(into + HALF + pair, new_b, mask=pairs & kept)
    if REST:
        new_c = c.to(kind)
        if NORM:
            tl.store(at + rest, new_c, mask=rests & is_qk)
        tl.store(into + rest, new_c, mask=rests & kept)


@triton.jit
def _weighed(x, scale, q_weight, k_weight, columns, inside, is_q, is_v, offset):
    """``x [HEADS, n]`` times its head's ``scale [HEADS, 1]`` and its kind's weight; values stay as they are."""
    of_q = tl.load(q_weight + columns, mask=inside, other=0.0).to(tl.float32)
    of_k = tl.load(k_weight + columns, mask=inside, other=0.0).to(tl.float32)
    return tl.where(is_v, x, x * scale * (tl.where(is_q, of_q, of_k) + offset))


def norm_rotate_and_store(
    qkv: Tensor,
    norm: tuple[Tensor, Tensor, float, float] | None,
    cos: Tensor,
    sin: Tensor,
    cache: Tensor,
    slots: Tensor,
    num_heads: int,
    num_kv_heads: int,
) -> None:
    """As `TorchKernels.norm_rotate_and_store`: qkv [T, (H + 2 * Hkv) * D], cos and sin [T, turned], cache
    [P * S, 2 * Hkv * D], slots [T]. norm is (q_weight [D], k_weight [D], eps, offset), or None for none.
    """
    T, turned = cos.shape
    heads = num_heads + 2 * num_kv_heads
    D = qkv.shape[1] // heads
    q_weight, k_weight, eps, offset = norm if norm is not None else (qkv, qkv, 0.0, 0.0)
    together = min(8 if T >= 32 else 2, triton.next_power_of_2(heads))  # few tokens: more programs, each with less
    grid = (T, triton.cdiv(heads, together))
    _norm_rotate_store[grid](
        qkv, q_weight, k_weight, cos, sin, cache, slots, eps, offset, num_heads, num_kv_heads, D, turned // 2,
        norm is not None, together, triton.next_power_of_2(max(turned // 2, 1)),
        triton.next_power_of_2(max(D - turned, 1)), num_warps=2 if together == 8 else 1,
        **how(qkv.device),
    )  # fmt: skip
