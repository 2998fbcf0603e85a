"""The attention layer: project, turn by position, store keys and values, look back, project."""

from torch import Tensor, nn

from minillm.attention.batch import ForwardBatch
from minillm.config import ModelConfig
from minillm.debug.probes import probe
from minillm.layers.build import LayerBuild
from minillm.layers.linear import QKVParallelLinear, RowParallelLinear


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023) with rotary positions, over the paged cache of ``batch``."""

    def __init__(self, config: ModelConfig, layer: int, build: LayerBuild) -> None:
        super().__init__()
        self.layer, self.head_dim, self.scale = layer, config.head_dim, config.head_dim**-0.5
        heads, kv_heads, bias = config.num_attention_heads, config.num_key_value_heads, config.attention_bias
        self.qkv_proj = QKVParallelLinear(config.hidden_size, config.head_dim, heads, kv_heads, bias, build)
        self.o_proj = RowParallelLinear(heads * config.head_dim, config.hidden_size, bias, build)
        self.num_heads, self.num_kv_heads = self.qkv_proj.num_heads, self.qkv_proj.num_kv_heads
        self.kernels = build.kernels

    def forward(self, hidden: Tensor, batch: ForwardBatch) -> Tensor:
        """``[T, hidden]`` -> ``[T, hidden]``."""
        H, Hkv, D = self.num_heads, self.num_kv_heads, self.head_dim
        qkv = self.qkv_proj(hidden)  # [T, (H + 2 * Hkv) * D]
        heads = qkv.view(-1, H + 2 * Hkv, D)
        q, k, v = heads[:, :H], heads[:, H : H + Hkv], heads[:, H + Hkv :]
        cos, sin = batch.rope
        cache = batch.kv_cache.slots[self.layer]  # [P * S, 2 * Hkv * D]
        probe.on and probe("kv.store", layer=self.layer, q=q, k=k, v=v, slots=batch.slots, batch=batch)
        self.kernels.rotate_and_store(qkv, cos, sin, cache, batch.slots, H, Hkv)
        probe.on and probe("attention.attend", layer=self.layer, q=q, k=k, v=v, batch=batch)
        out = batch.backend.attend(self.layer, q, batch, self.scale)  # [T, H * D]
        return self.o_proj(out)
