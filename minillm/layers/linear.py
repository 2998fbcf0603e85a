"""Linear layers, cut for tensor parallelism from the first day (Megatron-LM, Shoeybi et al. 2019).

A column-parallel layer gives each rank some of the outputs, a row-parallel layer some of the inputs, after which an
all-reduce adds the partial sums up. With one rank both are an ordinary linear layer. Each holds a `LinearFormat`, which
knows how the weight is stored; where a checkpoint's tensors go in a layer's own, fused, parameters is in shards.py.
"""

from collections.abc import Sequence

from torch import Tensor

from minillm.attention.batch import ForwardBatch
from minillm.layers.activation import GatedActivation
from minillm.layers.build import LayerBuild
from minillm.layers.shards import Cut, Sharded, Shards
from minillm.probe import probe


class Formatted(Sharded):
    """A matrix ``W [N, K]``, or rather this rank's shard of it, held as a `LinearFormat` says.

    inputs: how K is cut; parts: how N is, of each tensor that the checkpoint has (q, k, v of a fused layer). After that
    ``self.parts`` are the parts' sizes on this rank.
    """

    keeps_weight = False  # whether its weight must stay as it is, since an embedding looks rows up in it

    def __init__(self, inputs: Cut, parts: Sequence[Cut], bias: bool, build: LayerBuild, stack: Sequence[int] = ()):
        super().__init__(Shards(build.path, build.format, inputs, parts, build.dtype, bias), stack)
        self.format, self.group = build.format, build.group
        self.parts = [part.share for part in parts]
        self.in_features, self.out_features = inputs.share, sum(self.parts)
        if not bias:
            self.register_parameter("bias", None)

    def process_weights_after_loading(self) -> None:
        probe.on and probe("weights.process", layer=self, path=self.path, format=self.format)
        self.finish()

    def finish(self) -> None:
        """Let the format turn what was loaded into what it multiplies with."""
        self.format.process_weights_after_loading(self)

    @property
    def bytes_read(self) -> int:
        """Bytes that a product reads, whether all is loaded yet or not."""
        return self.format.bytes_read(self)

    def extra_repr(self) -> str:
        parts = " + ".join(map(str, self.parts))
        return f"{self.in_features} -> {parts}, {self.format.name}, bias={self.bias is not None}"


class LinearBase(Formatted):
    """``y = x W^T + b``."""

    def forward(self, x: Tensor, batch: ForwardBatch) -> Tensor:
        """``[T, K]`` -> ``[T, N]``. ``batch`` says whose tokens they are."""
        return self.format.apply(self, x)


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
        cuts = [build.cut(part, "a column-parallel layer's outputs") for part in parts]
        super().__init__(Cut(in_features), cuts, bias, build)
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


class QKVParallelLinear(LinearBase):
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
        group = build.group
        heads, kv_heads = group.heads_of(num_heads, num_kv_heads)  # of this rank
        shards = num_kv_heads // kv_heads  # each of which one or more ranks hold
        queries = Cut(num_heads * head_dim, group.size, group.rank)
        keys = values = Cut(num_kv_heads * head_dim, shards, group.rank * shards // group.size)
        super().__init__(Cut(hidden_size), [queries, keys, values], bias, build)
        self.head_dim, self.num_heads, self.num_kv_heads = head_dim, heads, kv_heads


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
        super().__init__(build.cut(in_features, "a row-parallel layer's inputs"), [Cut(out_features)], bias, build)

    def forward(self, x: Tensor, batch: ForwardBatch) -> Tensor:
        """``[T, K of this rank]`` -> ``[T, N]``, the same on every rank."""
        return self.group.all_reduce(super().forward(x, batch))
