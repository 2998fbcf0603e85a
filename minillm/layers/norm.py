"""RMSNorm (Zhang and Sennrich 2019): scale each token's vector to length sqrt(hidden), then weigh its numbers.

LayerNorm (Ba et al. 2016), which older models have, first takes the mean away.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minillm.layers.build import LayerBuild
from minillm.model_config import ModelConfig


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight``, the mean over the last dimension, the arithmetic in float32."""

    offset = 0.0

    def __init__(self, size: int, eps: float, build: LayerBuild) -> None:
        super().__init__()
        self.eps, self.kernels = eps, build.kernels
        self.weight = nn.Parameter(torch.empty(size, dtype=build.dtype), requires_grad=False)

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """``[T, size]`` -> the same shape. ``add`` is added to ``x`` first, in place: the residual stream takes it
        up."""
        return self.kernels.rms_norm(x, self.weight, self.eps, add)


class OffsetRMSNorm(RMSNorm):
    """The same, for checkpoints that store weights around zero: ``x / sqrt(mean(x^2) + eps) * (offset + weight)``."""

    def __init__(self, size: int, eps: float, build: LayerBuild, offset: float) -> None:
        super().__init__(size, eps, build)
        self.offset = offset

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """``[T, size]`` -> the same shape, as in `RMSNorm`."""
        return self.kernels.offset_rms_norm(x, self.weight, self.eps, self.offset, add)


def make_norm(config: ModelConfig, build: LayerBuild, size: int | None = None) -> RMSNorm:
    """The norm that a config asks for, over the hidden size or another one."""
    size = size or config.hidden_size
    if config.norm_offset:
        return OffsetRMSNorm(size, config.rms_norm_eps, build, config.norm_offset)
    return RMSNorm(size, config.rms_norm_eps, build)


class LayerNorm(nn.Module):
    """``(x - mean) / sqrt(variance + 1e-5) * weight + bias``, over the last dimension."""

    def __init__(self, size: int, build: LayerBuild, affine: bool = True) -> None:
        super().__init__()
        self.size = size
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if affine:
            self.weight = nn.Parameter(torch.empty(size, dtype=build.dtype), requires_grad=False)
            self.bias = nn.Parameter(torch.empty(size, dtype=build.dtype), requires_grad=False)

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """``[T, size]`` -> the same shape. ``add`` is added to ``x`` first, in place, as in `RMSNorm`."""
        if add is not None:
            x += add
        return F.layer_norm(x, (self.size,), self.weight, self.bias)
