"""Linear layers, cut for tensor parallelism from the first day (Megatron-LM, Shoeybi et al. 2019).

A column-parallel layer gives each rank some of the outputs, a row-parallel layer some of the inputs, after which an
all-reduce adds the partial sums up. With one rank both are an ordinary linear layer. Each holds a `LinearFormat`, which
knows how the weight is stored; each knows where a checkpoint's tensors go in its own, fused, parameters.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from minillm.attention.batch import ForwardBatch
from minillm.layers.activation import GatedActivation
from minillm.layers.build import LayerBuild
from minillm.probe import probe

WHOLE = -1  # as a part: all parts at once, which some checkpoints hold as one tensor


class LinearBase(nn.Module, ABC):
    """``y = x W^T + b`` with ``W [N, K]`` of this rank, stored as ``format`` says.

    parts: the sizes along N, on this rank, of what the checkpoint holds as separate tensors (q, k, v of a fused layer).
    """

    def __init__(self, in_features: int, parts: list[int], bias: bool, build: LayerBuild) -> None:
        super().__init__()
        self.path, self.format, self.group = build.path, build.format, build.group
        self.in_features, self.out_features, self.parts = in_features, sum(parts), parts
        self.format.create_weights(self, in_features, self.out_features, build.dtype)
        self.bias = (
            nn.Parameter(torch.empty(self.out_features, dtype=build.dtype), requires_grad=False) if bias else None
        )

    @abstractmethod
    def load(self, parameter: nn.Parameter, tensor: Tensor, part: int) -> None:
        """Copy a checkpoint's whole tensor, or rather this rank's share of it, to its place in ``parameter``."""

    @abstractmethod
    def checkpoint_shape(self, parameter: nn.Parameter, part: int) -> list[int]:
        """The whole shape, over all ranks, of the checkpoint's tensor for this part of ``parameter``."""

    def process_weights_after_loading(self) -> None:
        probe.on and probe("weights.process", layer=self, path=self.path, format=self.format)
        self.format.process_weights_after_loading(self)

    def forward(self, x: Tensor, batch: ForwardBatch) -> Tensor:
        """``[T, K]`` -> ``[T, N]``. ``batch`` says whose tokens they are."""
        return self.format.apply(self, x)

    def extra_repr(self) -> str:
        parts = " + ".join(map(str, self.parts))
        return f"{self.in_features} -> {parts}, {self.format.name}, bias={self.bias is not None}"


class ColumnParallelLinear(LinearBase):
    """Outputs cut over the ranks. ``parts`` are whole sizes; several make a fused layer (gate and up in one
    product)."""

    def __init__(
        self,
        in_features: int,
        parts: list[int],
        bias: bool = False,
        build: LayerBuild | None = None,
    ) -> None:
        build = build or LayerBuild()
        local = [build.group.share_of(part, "a column-parallel layer's outputs") for part in parts]
        super().__init__(in_features, local, bias, build)
        self.is_plain = type(self).forward is LinearBase.forward

    def gated(self, x: Tensor, batch: ForwardBatch, act: GatedActivation) -> Tensor:
        """``x [T, K]`` -> ``act(gate) * up [T, N / 2]``, gate and up being this layer's two parts.

        Both at once where the format can do that, but never past what was put around `forward`: a hook, or a subclass
        that does more.
        """
        if self.is_plain and not (self._forward_hooks or self._forward_pre_hooks):
            at_once = self.format.apply_gated(self, x, act.name)
            if at_once is not None:
                return at_once
        return act(self(x, batch))

    def load(self, parameter: nn.Parameter, tensor: Tensor, part: int) -> None:
        """``tensor [N of the part, K]`` or a bias ``[N of the part]``: this rank's rows go below the parts before."""
        if part == WHOLE:
            rows = [self.checkpoint_shape(parameter, i)[0] for i in range(len(self.parts))]
            for i, piece in enumerate(tensor.split(rows)):
                self.load(parameter, piece, i)
            return
        size = self.parts[part]
        mine = tensor.narrow(0, self.shard_of(part) * size, size)
        parameter.data.narrow(0, sum(self.parts[:part]), size).copy_(mine)

    def checkpoint_shape(self, parameter: nn.Parameter, part: int) -> list[int]:
        parts = range(len(self.parts)) if part == WHOLE else [part]
        return [sum(self.parts[i] * self.num_shards(i) for i in parts), *parameter.shape[1:]]

    def num_shards(self, part: int) -> int:
        """Into how many equal shards the part is cut."""
        return self.group.size

    def shard_of(self, part: int) -> int:
        """Which of them is this rank's."""
        return self.group.rank


class QKVParallelLinear(ColumnParallelLinear):
    """Queries, keys and values in one product, cut by heads. More ranks than key/value heads: ranks share a head."""

    def __init__(
        self,
        hidden_size: int,
        head_dim: int,
        num_heads: int,
        num_kv_heads: int,
        bias: bool = False,
        build: LayerBuild | None = None,
    ) -> None:
        build = build or LayerBuild()
        build.group.share_of(num_heads, "query heads")
        self.kv_copies = max(1, build.group.size // num_kv_heads)  # ranks that hold the same key/value head
        build.group.share_of(num_kv_heads * self.kv_copies, "key/value heads")
        kv_parts = num_kv_heads * self.kv_copies * head_dim
        super().__init__(hidden_size, [num_heads * head_dim, kv_parts, kv_parts], bias, build)
        self.head_dim = head_dim
        self.num_heads, self.num_kv_heads = self.parts[0] // head_dim, self.parts[1] // head_dim  # of this rank

    def num_shards(self, part: int) -> int:
        return self.group.size if part == 0 else self.group.size // self.kv_copies

    def shard_of(self, part: int) -> int:
        return self.group.rank if part == 0 else self.group.rank // self.kv_copies


class RowParallelLinear(LinearBase):
    """Inputs cut over the ranks: each multiplies its own slice of x, and the sum over the ranks is the answer."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        build: LayerBuild | None = None,
    ) -> None:
        build = build or LayerBuild()
        local = build.group.share_of(in_features, "a row-parallel layer's inputs")
        super().__init__(local, [out_features], bias, build)

    def load(self, parameter: nn.Parameter, tensor: Tensor, part: int) -> None:
        """``tensor [N, K]``: this rank's columns. A bias goes to rank 0 alone, or the sum would hold it many times."""
        if tensor.dim() == 1:
            parameter.data.copy_(tensor if self.group.rank == 0 else torch.zeros_like(tensor))
        else:
            parameter.data.copy_(tensor.narrow(1, self.group.rank * self.in_features, self.in_features))

    def checkpoint_shape(self, parameter: nn.Parameter, part: int) -> list[int]:
        return [self.out_features, *([self.in_features * self.group.size] if parameter.dim() > 1 else [])]

    def forward(self, x: Tensor, batch: ForwardBatch) -> Tensor:
        """``[T, K of this rank]`` -> ``[T, N]``, the same on every rank."""
        return self.group.all_reduce(self.format.apply(self, x))
