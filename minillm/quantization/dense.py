"""Dense weights: one matrix as trained, in the layout that this machine reads fastest."""

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minillm.kernels.cpu.kernels import CpuKernels
from minillm.kernels.torch.kernels import TorchKernels
from minillm.quantization.format import Along, LinearFormat, Piece

if TYPE_CHECKING:
    from minillm.kernels.triton.kernels import TritonKernels

EXPECTED_ROWS = 16  # the batch that oneDNN chooses its blocks for; one row and hundreds work with them too


class DenseFormat(LinearFormat):
    """``weight [N, K]``, multiplied with as it is."""

    name = "dense"

    def pieces(self, in_features: int, out_features: int, dtype: torch.dtype) -> list[Piece]:
        return [Piece("weight", (out_features, in_features), dtype, n=Along(0), k=Along(1))]

    def apply(self, layer: nn.Module, x: Tensor) -> Tensor:
        return F.linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]


class FewRowsFormat(DenseFormat):
    """On a GPU, where one row times a matrix is a matter of reading memory: a few rows go through a kernel that reads
    at the memory's speed, more through torch."""

    name = "dense (few rows: triton)"

    def __init__(self, kernels: TorchKernels) -> None:
        self.kernels: TritonKernels = kernels  # type: ignore[assignment]

    def apply(self, layer: nn.Module, x: Tensor) -> Tensor:
        N, K = layer.weight.shape  # type: ignore[misc]
        if self.kernels.few_rows_is_faster(len(x), N, K):
            return self.kernels.few_rows_linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]
        return F.linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]

    def apply_gated(self, layer: nn.Module, x: Tensor, act: str) -> Tensor | None:
        """``x [1, K]`` -> ``act(gate) * up [1, N / 2]``; None for more rows."""
        if len(x) != 1 or act not in self.kernels.gates:
            return None
        return self.kernels.one_row_gated(x, layer.weight, layer.bias, act)  # type: ignore[arg-type]


class PackedDenseFormat(DenseFormat):
    """On a CPU: the same numbers, re-ordered once after loading. The plain layout is then given up, unless an embedding
    shares it."""

    copies = True

    @abstractmethod
    def pack(self, weight: Tensor) -> Tensor:
        """``weight [N, K]`` in the format's own layout."""

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        assert isinstance(layer.weight, nn.Parameter)
        layer.packed = self.pack(layer.weight.data)
        if not getattr(layer, "keeps_weight", False):
            layer.weight = None  # type: ignore[assignment]  # or every number would be in memory twice

    def bytes_read(self, layer: nn.Module) -> int:
        matrix = getattr(layer, "packed", None)
        read = [layer.weight if matrix is None else matrix, layer.bias]
        return sum(tensor.nbytes for tensor in read if isinstance(tensor, Tensor))


class InterleavedFormat(PackedDenseFormat):
    """For the compiled kernel: groups of outputs side by side, read from front to back."""

    name = "dense (interleaved)"

    def __init__(self, kernels: CpuKernels) -> None:
        self.kernels = kernels

    def pack(self, weight: Tensor) -> Tensor:
        return self.kernels.interleave(weight)

    def apply(self, layer: nn.Module, x: Tensor) -> Tensor:
        return self.kernels.linear(x, layer.packed, layer.bias, layer.out_features)  # type: ignore[arg-type]


class OneDnnFormat(PackedDenseFormat):
    """The blocks of oneDNN, torch's matrix library for CPUs: large bf16 weights are read twice as fast, with equal
    results.

    The operators are private to torch (its compiler uses them), hence `packing_works` before anyone chooses this.
    """

    name = "dense (oneDNN)"

    def pack(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight, EXPECTED_ROWS)

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


def choose_format(device: torch.device, dtype: torch.dtype, pack: bool, kernels: TorchKernels) -> LinearFormat:
    """The format of a layer that the checkpoint holds as a plain matrix."""
    if kernels.name == "triton":
        return FewRowsFormat(kernels)
    if pack and device.type == "cpu":
        if isinstance(kernels, CpuKernels) and kernels.can_interleave(dtype):
            return InterleavedFormat(kernels)
        if packing_works(dtype):
            return OneDnnFormat()
    return DenseFormat()
