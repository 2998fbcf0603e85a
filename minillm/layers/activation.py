"""The activation of a feed-forward network, gated or plain."""

from torch import Tensor, nn

from minillm.kernels.torch.kernels import ACTIVATIONS
from minillm.layers.build import LayerBuild


class Activation(nn.Module):
    """``act(x)``, by its name in the config."""

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {name!r}; supported: {', '.join(sorted(ACTIVATIONS))}")
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """``[T, I]`` -> ``[T, I]``."""
        return ACTIVATIONS[self.name](x)


class GatedActivation(Activation):
    """``act(gate) * up``: SwiGLU where act is SiLU (Shazeer 2020)."""

    def __init__(self, name: str, build: LayerBuild) -> None:
        super().__init__(name)
        self.kernels = build.kernels

    def forward(self, gate_up: Tensor) -> Tensor:
        """``[T, 2 * I]`` (gate beside up, as the fused layer makes them) -> ``[T, I]``."""
        return self.kernels.gated_activation(gate_up, self.name)
