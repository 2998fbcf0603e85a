"""The experts of one layer: their weights, stacked, and how a checkpoint's tensors go into them."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from minillm.layers.activation import GatedActivation
from minillm.layers.build import LayerBuild
from minillm.layers.linear import WHOLE
from minillm.probe import probe
from minillm.quantization.format import DenseFormat


class ExpertMatrix(nn.Module):
    """One expert's ``weight [N, K]``, a view of the stack, for a `LinearFormat` to store and multiply."""

    bias = None

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)


class Experts(nn.Module):
    """``E`` gated feed-forward networks of equal size, each ``down(act(gate x) * up x)``.

    w13 [E, 2 * I, H]: gate above up, of every expert. w2 [E, H, I]: down. This is also the layout that a kernel for all
    experts at once reads. Every rank holds ``I / ranks`` of each expert, so that their partial outputs add up.
    """

    w13: nn.Parameter
    w2: nn.Parameter

    def __init__(self, num_experts: int, hidden: int, inner: int, act: str, build: LayerBuild) -> None:
        super().__init__()
        if not isinstance(build.format, DenseFormat):
            raise ValueError(
                f"experts are stored as dense matrices only, and the format asked for is {build.format.name}"
            )
        self.path, self.format, self.group = build.path, build.format, build.group
        self.num_experts, self.inner = num_experts, build.group.share_of(inner, "an expert's intermediate size")
        shapes = {"w13": (num_experts, 2 * self.inner, hidden), "w2": (num_experts, hidden, self.inner)}
        for name, shape in shapes.items():
            empty = torch.empty(shape, dtype=build.dtype)
            self.register_parameter(name, nn.Parameter(empty, requires_grad=False))
        self.act = GatedActivation(act, build)
        self.gate_up: list[ExpertMatrix] = []  # one an expert, once loaded
        self.down: list[ExpertMatrix] = []

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """One expert's rows ``x [n, H]`` -> ``[n, H]``, of which this rank computes its share of the sum."""
        inner = self.act(self.format.apply(self.gate_up[expert], x))  # [n, I]
        return self.format.apply(self.down[expert], inner)

    def checkpoint_tensors(self, leaf: str) -> Iterator[tuple[str, int]]:
        """The tensors of a checkpoint that make up our parameter ``leaf``: name below this module, and part.

        Gate and up of expert e are parts 2e and 2e + 1 of w13, down is part e of w2. A checkpoint may also hold them
        stacked, as one part: `WHOLE`.
        """
        kinds = ("gate_proj", "up_proj") if leaf == "w13" else ("down_proj",)
        for expert in range(self.num_experts):
            for i, kind in enumerate(kinds):
                yield f"{expert}.{kind}.weight", expert * len(kinds) + i
        yield ("gate_up_proj" if leaf == "w13" else "down_proj"), WHOLE

    def checkpoint_shape(self, parameter: nn.Parameter, part: int) -> list[int]:
        """The whole shape, over all ranks, of the checkpoint's tensor for this part of ``parameter``."""
        E, rows, columns = parameter.shape
        ranks = self.group.size
        if parameter is self.w2:
            return [rows, columns * ranks] if part != WHOLE else [E, rows, columns * ranks]
        return [rows // 2 * ranks, columns] if part != WHOLE else [E, rows * ranks, columns]

    def load(self, parameter: nn.Parameter, tensor: Tensor, part: int) -> None:
        """Copy this rank's share of a checkpoint's tensor, of the shape `checkpoint_shape`, to its place."""
        mine = slice(self.group.rank * self.inner, (self.group.rank + 1) * self.inner)
        if part == WHOLE:
            pieces = tensor.flatten(0, 1).chunk(2 * self.num_experts) if parameter is self.w13 else tensor
            for i, piece in enumerate(pieces):  # gate, up, gate, up, ...
                self.load(parameter, piece, i)
        elif parameter is self.w2:
            parameter.data[part].copy_(tensor[:, mine])
        else:
            expert, kind = divmod(part, 2)
            parameter.data[expert, kind * self.inner : (kind + 1) * self.inner].copy_(tensor[mine])

    def process_weights_after_loading(self) -> None:
        """Hand each expert's matrices to the format. One that packs them makes its own copy; the stack is then given
        up."""
        probe.on and probe("weights.process", layer=self, path=self.path, format=self.format)
        self.gate_up, self.down = ([ExpertMatrix(w) for w in stack] for stack in (self.w13.data, self.w2.data))
        for matrix in (*self.gate_up, *self.down):
            self.format.process_weights_after_loading(matrix)
        if self.gate_up[0].weight is None:
            self.w13 = self.w2 = None

    def extra_repr(self) -> str:
        return f"{self.num_experts} experts, inner {self.inner}, {self.format.name}"
