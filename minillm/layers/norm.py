"""RMSNorm (Zhang and Sennrich 2019): scale each token's vector to length sqrt(hidden), then weigh its numbers."""

import torch
from torch import Tensor, nn

from minillm.layers.build import LayerBuild


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight``, the mean over the last dimension, the arithmetic in float32."""

    def __init__(self, size: int, eps: float, build: LayerBuild) -> None:
        super().__init__()
        self.eps, self.kernels = eps, build.kernels
        self.weight = nn.Parameter(torch.empty(size, dtype=build.dtype), requires_grad=False)

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """``[T, size]`` -> the same shape. ``add`` is added to ``x`` first, in place: the residual stream takes it
        up."""
        return self.kernels.rms_norm(x, self.weight, self.eps, add)
