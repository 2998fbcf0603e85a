"""How a model's layers are built: what is the same for all of them, and where in the model each stands."""

from dataclasses import dataclass, field, replace

import torch

from minillm.kernels.torch.kernels import TorchKernels
from minillm.layers.shards import Cut
from minillm.parallel.group import SINGLE, ParallelGroup
from minillm.quantization.dense import DenseFormat
from minillm.quantization.format import FormatChooser, LinearFormat, OneFormat


@dataclass(frozen=True)
class LayerBuild:
    """dtype of the weights, who chooses the format of each linear layer, kernels between them, and the ranks that share
    the model.

    path: which module is being built, spelled as its parameters are: "model.layers.3.mlp.gate_up_proj". Whoever builds
    a part of itself hands it ``build.at("its name")``.
    """

    dtype: torch.dtype = torch.float32
    formats: FormatChooser = field(default_factory=lambda: OneFormat(DenseFormat()))
    kernels: TorchKernels = field(default_factory=TorchKernels)
    group: ParallelGroup = SINGLE
    path: str = ""

    def at(self, name: str) -> "LayerBuild":
        """The same, for the part called ``name`` (which may have dots) of what is built here."""
        return replace(self, path=f"{self.path}.{name}" if self.path else name)

    @property
    def format(self) -> LinearFormat:
        """How the layer that is built here holds its weight."""
        return self.formats.format_of(self.path)

    def cut(self, total: int, what: str) -> Cut:
        """This rank's share of ``total`` things along N or K. ValueError if they cannot be shared out evenly."""
        self.group.share_of(total, f"{self.path}: {what}" if self.path else what)
        return Cut(total, self.group.size, self.group.rank)
