"""Llama: the architecture that most open models vary. A plain module, ``model(input_ids, batch) -> hidden``."""

import torch
from torch import Tensor, nn

from minillm.attention.batch import ForwardBatch
from minillm.config import ModelConfig
from minillm.debug.probes import probe
from minillm.layers.activation import GatedActivation
from minillm.layers.attention import Attention
from minillm.layers.embedding import Embedding, LMHead
from minillm.layers.linear import ColumnParallelLinear, RowParallelLinear
from minillm.layers.norm import RMSNorm
from minillm.layers.rotary import RotaryEmbedding
from minillm.models.registry import register
from minillm.parallel.group import SINGLE, ParallelGroup
from minillm.quantization.format import DenseFormat, LinearFormat


class LlamaMLP(nn.Module):
    """``down(act(gate x) * up x)``, gate and up fused into one product."""

    def __init__(self, config: ModelConfig, format: LinearFormat, dtype: torch.dtype, group: ParallelGroup) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_up_proj = ColumnParallelLinear(hidden, [inner, inner], bias, format, dtype, group)
        self.act = GatedActivation(config.hidden_act)
        self.down_proj = RowParallelLinear(inner, hidden, bias, format, dtype, group)

    def forward(self, x: Tensor) -> Tensor:
        """``[T, hidden]`` -> ``[T, hidden]``."""
        return self.down_proj(self.act(self.gate_up_proj(x)))


class LlamaLayer(nn.Module):
    """Attention, then the feed-forward network, each on a normalised copy and added back to the residual stream."""

    def __init__(
        self, config: ModelConfig, layer: int, format: LinearFormat, dtype: torch.dtype, group: ParallelGroup
    ) -> None:
        super().__init__()
        self.layer = layer
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.self_attn = Attention(config, layer, format, dtype, group)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.mlp = LlamaMLP(config, format, dtype, group)

    def forward(self, hidden: Tensor, batch: ForwardBatch) -> Tensor:
        """``hidden [T, hidden]`` is added to in place."""
        probe.on and probe("layer.attention", layer=self.layer, hidden=hidden, batch=batch)
        hidden += self.self_attn(self.input_layernorm(hidden), batch)
        probe.on and probe("layer.mlp", layer=self.layer, hidden=hidden, batch=batch)
        hidden += self.mlp(self.post_attention_layernorm(hidden))
        return hidden


class LlamaModel(nn.Module):
    """Embedding, layers, final norm."""

    def __init__(self, config: ModelConfig, format: LinearFormat, dtype: torch.dtype, group: ParallelGroup) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, dtype)
        self.layers = nn.ModuleList(
            LlamaLayer(config, i, format, dtype, group) for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)


@register("LlamaForCausalLM")
class LlamaForCausalLM(nn.Module):
    """The whole model. Its parameters are named as in the checkpoint, but for the fused ones, which ``fused`` lists."""

    fused = {  # our parameter -> the checkpoint's tensors that are its parts, in order
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    }

    def __init__(
        self,
        config: ModelConfig,
        format: LinearFormat | None = None,
        dtype: torch.dtype = torch.float32,
        group: ParallelGroup = SINGLE,
    ) -> None:
        super().__init__()
        self.config = config
        format = format or DenseFormat()
        self.model = LlamaModel(config, format, dtype, group)
        self.lm_head = LMHead(self.model.embed_tokens, config.tie_word_embeddings, format)
        self.rotary = RotaryEmbedding(config, dtype)

    def forward(self, input_ids: Tensor, positions: Tensor, batch: ForwardBatch) -> Tensor:
        """``input_ids [T], positions [T]`` -> ``[T, hidden]``, normalised, ready for `compute_logits`."""
        probe.on and probe("model.embed", input_ids=input_ids, positions=positions, batch=batch)
        hidden = self.model.embed_tokens(input_ids)  # [T, hidden]
        batch.rope = self.rotary.rows(positions)
        for layer in self.model.layers:
            hidden = layer(hidden, batch)
        probe.on and probe("model.norm", hidden=hidden, batch=batch)
        return self.model.norm(hidden)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """``[rows, hidden]`` -> float32 ``[rows, V]``."""
        return self.lm_head(hidden)
