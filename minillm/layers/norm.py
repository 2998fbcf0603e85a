"""RMSNorm (Zhang and Sennrich 2019): scale each token's vector to length sqrt(hidden), then weigh its numbers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight``, the mean over the last dimension, the arithmetic in float32."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.eps = eps
        self.shape = (size,)
        self.weight = nn.Parameter(torch.empty(size, dtype=dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size]`` -> the same shape."""
        return F.rms_norm(x, self.shape, self.weight, self.eps)
