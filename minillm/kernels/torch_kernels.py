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

    def rotate_and_store(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor, num_heads: int, num_kv_heads: int
    ) -> None:
        """Turn queries and keys by their position, in place, then write keys and values to the cache.

        qkv [T, (H + 2 * Hkv) * D]; cos, sin [T, D]; cache [P * S, 2 * Hkv * D]; slots [T]. The turn is (a, b) -> (a cos
        - b sin, b cos + a sin), where a is a head's first half, b its second; sin's first half is negative already: the
        minus sign.
        """
        T, D = cos.shape
        heads = qkv.view(T, -1, D)[:, : num_heads + num_kv_heads]  # [T, H + Hkv, D]
        swapped = heads.unflatten(-1, (2, D // 2)).flip(2).view(T, -1, D)  # (b, a)
        heads.mul_(cos[:, None]).addcmul_(swapped, sin[:, None])
        cache.index_copy_(0, slots, qkv[:, num_heads * D :])
