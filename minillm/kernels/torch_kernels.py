"""The operations between the matrix products, in plain torch. They run anywhere, and every faster kernel must agree
with them."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


class TorchKernels:
    """The interface, and its implementation in torch."""

    name = "torch"

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, add: Tensor | None = None) -> Tensor:
        """``x [T, hidden] / sqrt(mean(x^2) + eps) * weight``; ``add [T, hidden]`` is added to ``x`` first, in place."""
        if add is not None:
            x += add
        return F.rms_norm(x, weight.shape, weight, eps)

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

        qkv [T, (H + 2 * Hkv) * D]; cos, sin [T, D]; cache [P * S, 2 * Hkv * D]; slots [T].
        """
        T, D = cos.shape
        self.rotate(qkv.view(T, -1, D)[:, : num_heads + num_kv_heads], cos, sin)  # [T, H + Hkv, D]
        cache.index_copy_(0, slots, qkv[:, num_heads * D :])
