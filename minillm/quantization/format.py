"""LinearFormat: how a linear layer holds its weight. Dense formats here; each compressed one is a file beside this."""

from abc import ABC, abstractmethod

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


class DenseFormat(LinearFormat):
    """One matrix ``weight [N, K]``, as trained."""

    name = "dense"

    def create_weights(self, layer: nn.Module, in_features: int, out_features: int, dtype: torch.dtype) -> None:
        layer.register_parameter(
            "weight", nn.Parameter(torch.empty(out_features, in_features, dtype=dtype), requires_grad=False)
        )

    def apply(self, layer: nn.Module, x: Tensor) -> Tensor:
        return F.linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]


class PackedDenseFormat(DenseFormat):
    """The same numbers, re-ordered once into the blocks in which a CPU's matrix library (oneDNN) streams them fastest.

    Large bf16 weights are read twice as fast so, with bit-equal results. The operators are private to torch (its compiler
    uses them), hence the guard: where they are missing or refuse, the layer stays plainly dense.
    """

    name = "dense (packed)"
    EXPECTED_ROWS = 16  # the batch that oneDNN chooses the blocks for; one row and hundreds work with it too

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        weight = layer.weight
        if not isinstance(weight, Tensor) or weight.device.type != "cpu" or not packing_works(weight.dtype):
            layer.format = DenseFormat()
            return
        layer.packed = torch.ops.mkldnn._reorder_linear_weight(weight.data, self.EXPECTED_ROWS)
        if not getattr(layer, "keeps_weight", False):
            layer.weight = None  # or every number would be in memory twice

    def apply(self, layer: nn.Module, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, layer.packed, layer.bias, "none", [], "")


def packing_works(dtype: torch.dtype) -> bool:
    """Whether this torch packs and multiplies weights of ``dtype`` on this CPU, tried on a small matrix."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    try:
        weight = torch.arange(32 * 16, dtype=dtype).view(32, 16) / 512
        x = torch.ones(2, 16, dtype=dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 2)
        got = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
        return torch.allclose(got, F.linear(x, weight), rtol=1e-2)
    except (RuntimeError, AttributeError):
        return False


def choose_format(device: torch.device, pack: bool) -> LinearFormat:
    """The format of a layer that the checkpoint holds as a plain matrix."""
    return PackedDenseFormat() if pack and device.type == "cpu" else DenseFormat()
