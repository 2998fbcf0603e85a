"""Qwen2 and Qwen2.5: Llama, with biases for queries, keys and values alone, and a window for its later layers."""

from torch import nn

from minillm.layers.attention import Attention
from minillm.layers.build import LayerBuild
from minillm.model_config import ModelConfig
from minillm.models.llama import LlamaForCausalLM, LlamaLayer
from minillm.models.registry import register


class Qwen2Layer(LlamaLayer):
    def make_attention(self, config: ModelConfig, layer: int, build: LayerBuild) -> Attention:
        return Attention(config, layer, build, o_bias=False)


@register("Qwen2ForCausalLM")
class Qwen2ForCausalLM(LlamaForCausalLM):
    def make_layer(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
        return Qwen2Layer(config, layer, build)
