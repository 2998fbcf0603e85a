"""Dense weights on a GPU, where one row times a matrix is a matter of reading memory."""

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from minillm.kernels.torch.kernels import TorchKernels
from minillm.quantization.format import DenseFormat

if TYPE_CHECKING:
    from minillm.kernels.triton.kernels import TritonKernels


class FewRowsFormat(DenseFormat):
    """The matrix as trained; a few rows go through a kernel that reads it at the memory's speed, more through torch."""

    name = "dense (few rows: triton)"

    def __init__(self, kernels: TorchKernels) -> None:
        self.kernels: TritonKernels = kernels  # type: ignore[assignment]

    def apply(self, layer: nn.Module, x: Tensor) -> Tensor:
        N, K = layer.weight.shape  # type: ignore[misc]
        if self.kernels.pays(len(x), N, K):
            return self.kernels.few_rows_linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]
        return F.linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]

    def apply_gated(self, layer: nn.Module, x: Tensor, act: str) -> Tensor | None:
        """``x [1, K]`` -> ``act(gate) * up [1, N / 2]``; None for more rows."""
        if len(x) != 1 or act not in self.kernels.gates:
            return None
        return self.kernels.one_row_gated(x, layer.weight, layer.bias, act)  # type: ignore[arg-type]
