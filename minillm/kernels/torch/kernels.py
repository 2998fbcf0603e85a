"""The operations between the matrix products, in plain torch. They run anywhere, and every faster kernel must agree
with them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F


def relu_squared(x: Tensor) -> Tensor:
    """``max(x, 0)^2``, number by number, of any shape (So et al. 2021)."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": relu_squared,
}


class TorchKernels:
    """The interface, and its implementation in torch."""

    name = "torch"
    reason = ""  # why these were chosen, in words
    _launch: Callable[..., None] | None = None  # while a tape records: `launches_go_through`

    @contextmanager
    def launches_go_through(self, launch: Callable[..., None]) -> Iterator[None]:
        """Inside, work that torch's dispatcher does not see is done by ``launch(function, *arguments)``, so that
        whoever records a step hears of it."""
        self._launch = launch
        try:
            yield
        finally:
            self._launch = None

    def store(self, cache: Tensor, slots: Tensor, rows: Tensor) -> None:
        """``rows [T, n]`` into ``cache [P * S, n]`` at ``slots [T]``. In a recorded step a slot may be -1: nowhere."""
        if self._launch is None:
            cache.index_copy_(0, slots, rows)
        else:
            self._launch(store_where_there_is_a_slot, cache, slots, rows)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, add: Tensor | None = None) -> Tensor:
        """``x [T, hidden] / sqrt(mean(x^2) + eps) * weight``; ``add [T, hidden]`` is added to ``x`` first, in place."""
        if add is not None:
            x += add
        return F.rms_norm(x, weight.shape, weight, eps)

    def offset_rms_norm(
        self, x: Tensor, weight: Tensor, eps: float, offset: float, add: Tensor | None = None
    ) -> Tensor:
        """`rms_norm` with ``offset + weight`` for the weight."""
        if add is not None:
            x += add
        return _rms_norm(x, weight, eps, offset)

    def norm_heads(
        self,
        qkv: Tensor,
        q_weight: Tensor,
        k_weight: Tensor,
        eps: float,
        num_heads: int,
        num_kv_heads: int,
        offset: float = 0.0,
    ) -> None:
        """`offset_rms_norm` of each query and key head by itself, in place.

        qkv [T, (H + 2 * Hkv) * D], the values at its end untouched; q_weight, k_weight [D].
        """
        heads = qkv.view(len(qkv), -1, len(q_weight))  # [T, H + 2 * Hkv, D]
        queries, keys = heads[:, :num_heads], heads[:, num_heads : num_heads + num_kv_heads]
        queries.copy_(_rms_norm(queries, q_weight, eps, offset))
        keys.copy_(_rms_norm(keys, k_weight, eps, offset))

    def gated_activation(self, gate_up: Tensor, act: str) -> Tensor:
        """``gate_up [T, 2 * I]`` -> ``act(gate) * up [T, I]``."""
        gate, up = gate_up.chunk(2, dim=-1)
        return ACTIVATIONS[act](gate).mul_(up)

    def rotate(self, heads: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Turn ``heads [T, n, D]`` in place by their token's angles, ``cos, sin [T, D]`` (rotary position embedding).

        A head's first half a and second half b make pairs: (a, b) becomes (a cos - b sin, b cos + a sin). The first
        half of ``sin`` is negative already: that is the minus sign.
        """
        T, n, D = heads.shape
        swapped = heads.unflatten(-1, (2, D // 2)).flip(2).view(T, n, D)  # (b, a)
        heads.mul_(cos[:, None]).addcmul_(swapped, sin[:, None])

    def rotate_and_store(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor, num_heads: int, num_kv_heads: int
    ) -> None:
        """Turn queries and keys by their position, in place, then write keys and values to the cache.

        qkv [T, (H + 2 * Hkv) * D]; cos, sin [T, D]; cache [P * S, 2 * Hkv * D]; slots [T]. Where cos and sin are
        shorter than D, only so many numbers of a head are turned, the first ones; with none, nothing is.
        """
        T, turned = cos.shape
        D = qkv.shape[1] // (num_heads + 2 * num_kv_heads)
        if turned:
            heads = qkv.view(T, -1, D)[:, : num_heads + num_kv_heads]  # [T, H + Hkv, D]
            self.rotate(heads[:, :, :turned], cos, sin)
        self.store(cache, slots, qkv[:, num_heads * D :])

    def norm_rotate_and_store(
        self,
        qkv: Tensor,
        q_weight: Tensor,
        k_weight: Tensor,
        eps: float,
        offset: float,
        cos: Tensor,
        sin: Tensor,
        cache: Tensor,
        slots: Tensor,
        num_heads: int,
        num_kv_heads: int,
    ) -> None:
        """`norm_heads`, then `rotate_and_store`, which take the same shapes; a faster kernel reads the heads once."""
        self.norm_heads(qkv, q_weight, k_weight, eps, num_heads, num_kv_heads, offset)
        self.rotate_and_store(qkv, cos, sin, cache, slots, num_heads, num_kv_heads)


def store_where_there_is_a_slot(cache: Tensor, slots: Tensor, rows: Tensor) -> None:
    """``rows [T, n]`` into ``cache [P * S, n]`` at ``slots [T]``; a row with a negative slot goes nowhere."""
    real = slots >= 0
    cache.index_copy_(0, slots[real], rows[real])


def _rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    """Over the last dimension of ``x [.., size]``, with ``weight [size]``."""
    if not offset:
        return F.rms_norm(x, weight.shape, weight, eps)
    # In float32: 1 + w, rounded to bfloat16, would have lost most of a small w.
    return F.rms_norm(x.to(torch.float32), weight.shape, weight.to(torch.float32) + offset, eps).to(x.dtype)
