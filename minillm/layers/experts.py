"""The experts of one layer: their weights, stacked, and how a checkpoint's tensors go into them."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from minillm.layers.activation import GatedActivation
from minillm.layers.build import LayerBuild
from minillm.layers.linear import Formatted
from minillm.layers.shards import WHOLE, Cut


class ExpertMatrix(nn.Module):
    """One expert's matrix: its pieces are views of a stack's, for the stack's `LinearFormat` to finish and multiply."""

    def __init__(self, stack: "ExpertStack", expert: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.parts = stack.in_features, stack.out_features, stack.parts
        self.register_parameter("bias", None)
        for name, whole in stack.named_parameters(recurse=False):
            self.register_parameter(name, nn.Parameter(whole.data[expert], requires_grad=False))


class ExpertStack(Formatted):
    """The same matrix of ``E`` experts: every piece of its format is one tensor ``[E, ...]``, which is also what a
    kernel for all experts at once reads.

    kinds: what the checkpoint calls the matrices of one expert that are its parts; in_one: what it calls those of all
    experts where it holds them as one tensor.
    """

    def __init__(
        self, num_experts: int, kinds: Sequence[str], in_one: str, inputs: Cut, parts: Sequence[Cut], build: LayerBuild
    ) -> None:
        super().__init__(inputs, parts, False, build, [num_experts])
        self.num_experts, self.kinds, self.in_one = num_experts, kinds, in_one
        self.matrices: list[ExpertMatrix] = []  # one an expert, once loaded

    def multiply(self, x: Tensor, expert: int) -> Tensor:
        """One expert's rows ``x [n, K]`` -> ``[n, N]``."""
        return self.format.apply(self.matrices[expert], x)

    def checkpoint_tensors(self, leaf: str) -> Iterator[tuple[str, int]]:
        """The tensors of a checkpoint that make up our parameter ``leaf``: name beside this module, and part.

        A part is a matrix of an expert: of w13, gate and up of expert e are parts 2e and 2e + 1. A plain weight may
        also come as one stack of all: `WHOLE`.
        """
        for expert in range(self.num_experts):
            for i, kind in enumerate(self.kinds):
                yield f"{expert}.{kind}.{leaf}", expert * len(self.kinds) + i
        if leaf == "weight":
            yield self.in_one, WHOLE

    def checkpoint_shape(self, leaf: str, part: int) -> list[int]:
        if part == WHOLE:
            return [self.num_experts, *super().checkpoint_shape(leaf, WHOLE)]
        return super().checkpoint_shape(leaf, part % len(self.kinds))

    def load(self, leaf: str, tensor: Tensor, part: int) -> None:
        stack: Tensor = getattr(self, leaf).data
        if part == WHOLE:
            for here, own in zip(stack, tensor):
                self.shards.load(here, leaf, own, WHOLE)
        else:
            expert, kind = divmod(part, len(self.kinds))
            self.shards.load(stack[expert], leaf, tensor, kind)

    def finish(self) -> None:
        """Let the format finish each expert's matrix. A stack that it has made copies of is given up."""
        self.matrices = [ExpertMatrix(self, expert) for expert in range(self.num_experts)]
        for matrix in self.matrices:
            self.format.process_weights_after_loading(matrix)
        for name, stack in list(self.named_parameters(recurse=False)):
            first = getattr(self.matrices[0], name)
            if first is None or first.data_ptr() != stack.data_ptr():
                setattr(self, name, None)

    @property
    def bytes_read(self) -> int:
        """Of all experts together."""
        return sum(map(self.format.bytes_read, self.matrices)) if self.matrices else super().bytes_read


class Experts(nn.Module):
    """``E`` gated feed-forward networks of equal size, each ``down(act(gate x) * up x)``.

    w13 holds gate above up, of every expert, w2 down; in a dense format ``w13.weight [E, 2 * I, H]`` and
    ``w2.weight [E, H, I]``. Every rank holds ``I / ranks`` of each expert, so that their partial outputs add up.
    """

    def __init__(self, num_experts: int, hidden: int, inner: int, act: str, build: LayerBuild) -> None:
        super().__init__()
        cut = build.cut(inner, "an expert's intermediate size")
        self.num_experts, self.inner = num_experts, cut.share
        gate_up, down = ("gate_proj", "up_proj"), ("down_proj",)
        self.w13 = ExpertStack(num_experts, gate_up, "gate_up_proj", Cut(hidden), [cut, cut], build.at("w13"))
        self.w2 = ExpertStack(num_experts, down, "down_proj", cut, [Cut(hidden)], build.at("w2"))
        self.act = GatedActivation(act, build)

    def forward(self, x: Tensor, expert: int) -> Tensor:
        """One expert's rows ``x [n, H]`` -> ``[n, H]``, of which this rank computes its share of the sum."""
        return self.w2.multiply(self.act(self.w13.multiply(x, expert)), expert)  # between the two: [n, I]

    def extra_repr(self) -> str:
        return f"{self.num_experts} experts, inner {self.inner}"
