"""LinearFormat: how a linear layer holds its weight. The plain one is here; each other is a file beside this."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LinearFormat(ABC):
    """Create a linear layer's parameters, finish them once loaded, multiply with them.

    A layer is cut along its outputs N into parts (q, k and v are parts of one fused layer) and may be one rank's shard.
    """

    name: str

    @abstractmethod
    def create_weights(self, layer: nn.Module, in_features: int, out_features: int, dtype: torch.dtype) -> None:
        """Register the parameters on ``layer``, sized for this rank (K = ``in_features``, N = ``out_features``)."""

    def process_weights_after_loading(self, layer: nn.Module) -> None:  # noqa: B027 (nothing to do is a fine default)
        """Once everything is loaded: turn the checkpoint's layout into the one that multiplies fastest."""

    @abstractmethod
    def apply(self, layer: nn.Module, x: Tensor) -> Tensor:
        """``x [T, K]`` -> ``[T, N]``."""

    def apply_gated(self, layer: nn.Module, x: Tensor, act: str) -> Tensor | None:
        """``x [T, K]`` -> ``act(gate) * up [T, N / 2]`` at once, N being gate and up; None where that does not pay."""
        return None


class DenseFormat(LinearFormat):
    """One matrix ``weight [N, K]``, as trained."""

    name = "dense"

    def create_weights(self, layer: nn.Module, in_features: int, out_features: int, dtype: torch.dtype) -> None:
        layer.register_parameter(
            "weight", nn.Parameter(torch.empty(out_features, in_features, dtype=dtype), requires_grad=False)
        )

    def apply(self, layer: nn.Module, x: Tensor) -> Tensor:
        return F.linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]


class FormatChooser(Protocol):
    """Says which format each layer has: one model may hold layers of several."""

    def format_of(self, path: str) -> LinearFormat:
        """The format of the layer at ``path``, as "model.layers.3.mlp.gate_up_proj"."""


@dataclass(frozen=True)
class OneFormat:
    """The same for all layers."""

    format: LinearFormat

    def format_of(self, path: str) -> LinearFormat:
        return self.format
