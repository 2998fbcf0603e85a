"""Gemma 3, its text models: norms around every part of a layer, and two kinds of layers with a RoPE each.

Layers with a window (five of six) look a little way back and turn heads by small wavelengths, the others look at
everything. `Gemma3ForCausalLM` is the text model alone; the ones with pictures are another architecture.
"""

import torch
from torch import Tensor, nn

from minillm.attention.batch import ForwardBatch
from minillm.layers.attention import Attention, NormedAttention
from minillm.layers.build import LayerBuild
from minillm.layers.norm import make_norm
from minillm.layers.rotary import RotaryEmbedding
from minillm.model_config import ModelConfig
from minillm.models.llama import LlamaForCausalLM, LlamaLayer
from minillm.models.registry import register
from minillm.probe import probe


class Gemma3Attention(NormedAttention):
    def rope_of(self, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        """cos and sin for this kind of layer, ``[T, D]`` each."""
        return batch.rope if self.window is None else batch.local_rope


class Gemma3Layer(LlamaLayer):
    """What attention and the feed-forward network give is normalised too, before it is added (sandwich norms)."""

    def __init__(self, config: ModelConfig, layer: int, build: LayerBuild) -> None:
        super().__init__(config, layer, build)
        self.pre_feedforward_layernorm = make_norm(config, build)
        self.post_feedforward_layernorm = make_norm(config, build)

    def make_attention(self, config: ModelConfig, layer: int, build: LayerBuild) -> Attention:
        return Gemma3Attention(config, layer, build)

    def forward(self, stream: Tensor, add: Tensor | None, batch: ForwardBatch) -> Tensor:
        """``stream [T, hidden]`` takes up ``add`` and attention's output; the rest is returned, as in Llama."""
        hidden = self.input_layernorm(stream, add)
        probe.on and probe("layer.attention", layer=self.layer, stream=stream, hidden=hidden, batch=batch)
        attended = self.post_attention_layernorm(self.self_attn(hidden, batch))
        hidden = self.pre_feedforward_layernorm(stream, attended)
        probe.on and probe("layer.mlp", layer=self.layer, stream=stream, hidden=hidden, batch=batch)
        return self.post_feedforward_layernorm(self.mlp(hidden, batch))


@register("Gemma3ForCausalLM")
class Gemma3ForCausalLM(LlamaForCausalLM):
    def __init__(self, config: ModelConfig, build: LayerBuild) -> None:
        super().__init__(config, build)
        self.local_rotary = RotaryEmbedding(config, build.dtype, config.local_rope)
        # Rounded to the model's dtype, as in training: in bfloat16 that is another number.
        self.embedding_scale = float(torch.tensor(config.hidden_size**0.5, dtype=build.dtype, device="cpu"))

    def make_layer(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
        return Gemma3Layer(config, layer, build)

    def make_tables(self, max_positions: int, device: torch.device) -> None:
        super().make_tables(max_positions, device)
        self.local_rotary.make_tables(max_positions, device)

    def embed(self, input_ids: Tensor) -> Tensor:
        """``[T]`` -> ``[T, hidden]``, as large as the norms' outputs."""
        return super().embed(input_ids) * self.embedding_scale

    def look_up(self, positions: Tensor, batch: ForwardBatch) -> None:
        """Both kinds of cos and sin for ``positions [T]``."""
        super().look_up(positions, batch)
        batch.local_rope = self.local_rotary.rows(positions)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """``[rows, hidden]`` -> ``[rows, V]``, pressed below a cap, in float32, where the config has one."""
        logits, cap = super().compute_logits(hidden), self.config.final_logit_softcapping
        return logits if cap is None else (logits.float() / cap).tanh() * cap
