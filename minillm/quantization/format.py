"""LinearFormat: how a linear layer holds its weight. Each is a file beside this; layers know none of them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Along:
    """How a tensor's dimension ``dim`` runs along N or K: ``values`` neighbours there take ``entries`` entries here.

    A plain matrix: 1 and 1. Eight numbers of 4 bits in one word: 8 and 1. A scale that 128 numbers share: 128 and 1.
    32 numbers of 3 bits in three words: 32 and 3. What lies together is never cut in two.
    """

    dim: int
    values: int = 1
    entries: int = 1

    def entries_of(self, count: int) -> int:
        """How many entries ``count`` numbers take, the last ones perhaps not full."""
        return -(-count // self.values) * self.entries


@dataclass(frozen=True)
class Piece:
    """One of the tensors that a checkpoint holds for a matrix of N outputs and K inputs: its name, its whole shape.

    n, k: which dimension runs along N, and which along K; None where none does (a scale for the whole matrix).
    added: whether it is added to the product, as a bias is. Of ranks that share out K, one adds it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    n: Along | None = None
    k: Along | None = None
    added: bool = False


class LinearFormat(ABC):
    """Say which tensors a checkpoint holds for a linear layer, finish them once loaded, multiply with them.

    A layer has each piece as a parameter of that name, with this rank's share of every part (q, k and v are parts of
    one layer, beside each other along N). A piece that does not run along N is held once for each part: [parts, ...].
    ``layer.parts`` are the parts' outputs on this rank.
    """

    name: str
    copies = False  # whether it multiplies with a copy in a layout of its own, made once all is loaded

    @abstractmethod
    def pieces(self, in_features: int, out_features: int, dtype: torch.dtype) -> list[Piece]:
        """What a checkpoint holds for a matrix of N = ``out_features``, K = ``in_features``; ``dtype`` is the model's.

        ValueError if it cannot hold such a matrix.
        """

    def process_weights_after_loading(self, layer: nn.Module) -> None:  # noqa: B027 (nothing to do is a fine default)
        """Once everything is loaded: turn the checkpoint's layout into the one that multiplies fastest."""

    @abstractmethod
    def apply(self, layer: nn.Module, x: Tensor) -> Tensor:
        """``x [T, K]`` -> ``[T, N]``."""

    def apply_gated(self, layer: nn.Module, x: Tensor, act: str) -> Tensor | None:
        """``x [T, K]`` -> ``act(gate) * up [T, N / 2]`` at once, N being gate and up; None where that is no faster."""
        return None

    def bytes_read(self, layer: nn.Module) -> int:
        """Bytes that a product reads: of the layer's parameters, or of what was made of them."""
        return sum(parameter.nbytes for parameter in layer.parameters(recurse=False))


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
