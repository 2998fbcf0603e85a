"""Qwen3: Llama, with query and key heads normalised before they are turned by position."""

from torch import nn

from minillm.layers.attention import Attention, NormedAttention
from minillm.layers.build import LayerBuild
from minillm.model_config import ModelConfig
from minillm.models.llama import LlamaForCausalLM, LlamaLayer
from minillm.models.registry import register


class Qwen3Layer(LlamaLayer):
    def make_attention(self, config: ModelConfig, layer: int, build: LayerBuild) -> Attention:
        return NormedAttention(config, layer, build)


@register("Qwen3ForCausalLM")
class Qwen3ForCausalLM(LlamaForCausalLM):
    def make_layer(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
        return Qwen3Layer(config, layer, build)
