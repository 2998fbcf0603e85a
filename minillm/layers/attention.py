"""The attention layer: project, turn by position, store keys and values, look back, project."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from minillm.attention.batch import ForwardBatch
from minillm.layers.build import LayerBuild
from minillm.layers.linear import QKVParallelLinear, RowParallelLinear
from minillm.layers.norm import make_norm
from minillm.model_config import ModelConfig
from minillm.probe import probe

Method = TypeVar("Method", bound=Callable[..., Any])


def stands_for(prepare: Callable[..., None], turn: Callable[..., None]) -> Callable[[Method], Method]:
    """Marks a `turn_and_store` as one kernel for these two. A subclass with another of either does without it."""

    def mark(method: Method) -> Method:
        method.stands_for = prepare, turn  # type: ignore[attr-defined]
        return method

    return mark


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023) with rotary positions, over the paged cache of ``batch``.

    An architecture that differs overrides `prepare_heads` or `rope_of`; the rest is in the config. ``o_bias`` is for
    those whose output projection has a bias where the others have none, or the other way round.
    """

    def __init__(self, config: ModelConfig, layer: int, build: LayerBuild, o_bias: bool | None = None) -> None:
        super().__init__()
        self.layer, self.head_dim, self.window = layer, config.head_dim, config.window(layer)
        heads, kv_heads, bias = config.num_attention_heads, config.num_key_value_heads, config.attention_bias
        self.qkv_proj = QKVParallelLinear(
            config.hidden_size, config.head_dim, heads, kv_heads, bias, build.at("qkv_proj")
        )
        o_bias = bias if o_bias is None else o_bias
        self.o_proj = RowParallelLinear(heads * config.head_dim, config.hidden_size, o_bias, build.at("o_proj"))
        self.num_heads, self.num_kv_heads = self.qkv_proj.num_heads, self.qkv_proj.num_kv_heads
        self.kernels = build.kernels
        mine = type(self)
        self.fuses = getattr(mine.turn_and_store, "stands_for", None) == (mine.prepare_heads, mine.turn_prepared)

    def prepare_heads(self, qkv: Tensor) -> None:
        """What happens to ``qkv [T, (H + 2 * Hkv) * D]``, in place, before it is turned by position: here nothing."""

    def turn_and_store(self, qkv: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor) -> None:
        """`prepare_heads` and `turn_prepared` in one, for those that have a kernel for it: see `stands_for`."""
        raise TypeError(f"{type(self).__name__} does not prepare heads and turn them in one")

    def turn_prepared(self, qkv: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor) -> None:
        """Turn the queries and keys of ``qkv [T, (H + 2 * Hkv) * D]`` by position, in place; then store.

        cos, sin [T, D]; cache [P * S, 2 * Hkv * D] takes keys and values at ``slots [T]``.
        """
        self.kernels.rotate_and_store(qkv, cos, sin, cache, slots, self.num_heads, self.num_kv_heads)

    def rope_of(self, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        """cos and sin for this layer, ``[T, D]`` each."""
        return batch.rope

    def forward(self, hidden: Tensor, batch: ForwardBatch) -> Tensor:
        """``[T, hidden]`` -> ``[T, hidden]``."""
        H, Hkv, D = self.num_heads, self.num_kv_heads, self.head_dim
        qkv = self.qkv_proj(hidden, batch)  # [T, (H + 2 * Hkv) * D]
        heads = qkv.view(-1, H + 2 * Hkv, D)
        q, k, v = heads[:, :H], heads[:, H : H + Hkv], heads[:, H + Hkv :]
        cos, sin = self.rope_of(batch)
        cache = batch.kv_cache[self.layer].slots  # [P * S, 2 * Hkv * D]
        fused = self.fuses and not probe.on  # whoever listens sees each stage by itself
        if not fused:
            self.prepare_heads(qkv)
        turn = self.turn_and_store if fused else self.turn_prepared
        probe.on and probe("kv.store", layer=self.layer, q=q, k=k, v=v, slots=batch.slots, batch=batch)
        turn(qkv, cos, sin, cache, batch.slots)
        probe.on and probe("attention.attend", layer=self.layer, q=q, k=k, v=v, batch=batch)
        out = batch.backend.attend(self.layer, q, batch)  # [T, H * D]
        return self.o_proj(out, batch)


class NormedAttention(Attention):
    """Attention whose query and key heads are normalised before they are turned (QK-norm, Dehghani et al. 2023)."""

    def __init__(self, config: ModelConfig, layer: int, build: LayerBuild, o_bias: bool | None = None) -> None:
        super().__init__(config, layer, build, o_bias)
        self.q_norm = make_norm(config, build, config.head_dim)
        self.k_norm = make_norm(config, build, config.head_dim)

    def prepare_heads(self, qkv: Tensor) -> None:
        """Each head of ``qkv [T, (H + 2 * Hkv) * D]`` by itself, over its D numbers, in place; values stay."""
        q, k = self.q_norm, self.k_norm
        self.kernels.norm_heads(qkv, q.weight, k.weight, q.eps, self.num_heads, self.num_kv_heads, q.offset)

    @stands_for(prepare_heads, Attention.turn_prepared)
    def turn_and_store(self, qkv: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor) -> None:
        """`prepare_heads`, then `turn_prepared`, which take the same shapes, with each head read once."""
        q, k, heads, kv_heads = self.q_norm, self.k_norm, self.num_heads, self.num_kv_heads
        self.kernels.norm_rotate_and_store(
            qkv, q.weight, k.weight, q.eps, q.offset, cos, sin, cache, slots, heads, kv_heads
        )
