"""The activation of a gated feed-forward network."""

from torch import Tensor, nn

from minillm.kernels.torch_kernels import ACTIVATIONS
from minillm.layers.build import LayerBuild


class GatedActivation(nn.Module):
    """``act(gate) * up``: SwiGLU where act is SiLU (Shazeer 2020)."""

    def __init__(self, name: str, build: LayerBuild) -> None:
        super().__init__()
        if name not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {name!r}; supported: {', '.join(sorted(ACTIVATIONS))}")
        self.name, self.kernels = name, build.kernels

    def forward(self, gate_up: Tensor) -> Tensor:
        """``[T, 2 * I]`` (gate beside up, as the fused layer makes them) -> ``[T, I]``."""
        return self.kernels.gated_activation(gate_up, self.name)
