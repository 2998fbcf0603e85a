"""The attention layer: project, turn by position, store keys and values, look back, project."""

import torch
from torch import Tensor, nn

from minillm.attention.batch import ForwardBatch
from minillm.config import ModelConfig
from minillm.debug.probes import probe
from minillm.layers.linear import QKVParallelLinear, RowParallelLinear
from minillm.layers.rotary import rotate
from minillm.parallel.group import ParallelGroup
from minillm.quantization.format import LinearFormat


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023) with rotary positions, over the paged cache of ``batch``."""

    def __init__(
        self, config: ModelConfig, layer: int, format: LinearFormat, dtype: torch.dtype, group: ParallelGroup
    ) -> None:
        super().__init__()
        self.layer, self.head_dim, self.scale = layer, config.head_dim, config.head_dim**-0.5
        heads, kv_heads, bias = config.num_attention_heads, config.num_key_value_heads, config.attention_bias
        self.qkv_proj = QKVParallelLinear(
            config.hidden_size, config.head_dim, heads, kv_heads, bias, format, dtype, group
        )
        self.o_proj = RowParallelLinear(heads * config.head_dim, config.hidden_size, bias, format, dtype, group)
        self.num_heads, self.num_kv_heads = self.qkv_proj.num_heads, self.qkv_proj.num_kv_heads

    def forward(self, hidden: Tensor, batch: ForwardBatch) -> Tensor:
        """``[T, hidden]`` -> ``[T, hidden]``."""
        H, Hkv, D = self.num_heads, self.num_kv_heads, self.head_dim
        qkv = self.qkv_proj(hidden)  # [T, (H + 2 * Hkv) * D]
        heads = qkv.view(-1, H + 2 * Hkv, D)
        cos, sin = batch.rope  # type: ignore[misc]
        probe.on and probe(
            "attention.rope", layer=self.layer, q=heads[:, :H], k=heads[:, H : H + Hkv], positions=batch.positions
        )
        rotate(heads[:, : H + Hkv], cos, sin)  # queries and keys at once, in place
        batch.kv_cache.store(self.layer, batch.slots, qkv[:, H * D :])
        probe.on and probe("attention.attend", layer=self.layer, q=heads[:, :H], batch=batch)
        out = batch.backend.attend(self.layer, heads[:, :H], batch, self.scale)  # [T, H * D]
        return self.o_proj(out)
