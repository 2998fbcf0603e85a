"""How a model's layers are built: what is the same for all of them."""

from dataclasses import dataclass, field

import torch

from minillm.kernels.torch.kernels import TorchKernels
from minillm.parallel.group import SINGLE, ParallelGroup
from minillm.quantization.format import DenseFormat, LinearFormat


@dataclass(frozen=True)
class LayerBuild:
    """dtype of the weights, format of the linear layers, kernels between them, and the ranks that share the model."""

    dtype: torch.dtype = torch.float32
    format: LinearFormat = field(default_factory=DenseFormat)
    kernels: TorchKernels = field(default_factory=TorchKernels)
    group: ParallelGroup = SINGLE
