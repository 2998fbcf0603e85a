"""Activations of the feed-forward network."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


class GatedActivation(nn.Module):
    """``act(gate) * up``: SwiGLU where act is SiLU (Shazeer 2020)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {name!r}; supported: {', '.join(sorted(ACTIVATIONS))}")
        self.name, self.act = name, ACTIVATIONS[name]

    def forward(self, gate_up: Tensor) -> Tensor:
        """``[T, 2 * I]`` (gate beside up, as the fused layer makes them) -> ``[T, I]``."""
        gate, up = gate_up.chunk(2, dim=-1)
        return self.act(gate).mul_(up)
