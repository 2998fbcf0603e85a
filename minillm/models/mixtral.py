"""Mixtral: Mistral, with a mixture of experts in the place of every feed-forward network (Jiang et al. 2024)."""

from torch import nn

from minillm.layers.build import LayerBuild
from minillm.layers.moe import MixtureOfExperts, MoeShape
from minillm.model_config import ModelConfig
from minillm.models.llama import LlamaForCausalLM, LlamaLayer
from minillm.models.registry import register


class MixtralLayer(LlamaLayer):
    def make_mlp(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
        """Each expert is as large as a whole feed-forward network of Mistral."""
        raw = config.raw
        num_experts = raw.get("num_local_experts", raw.get("num_experts", 8))
        shape = MoeShape(num_experts, raw.get("num_experts_per_tok", 2), config.intermediate_size, renormalise=True)
        return MixtureOfExperts(config, shape, layer, build)


@register("MixtralForCausalLM")
class MixtralForCausalLM(LlamaForCausalLM):
    spelling = {"mlp": "block_sparse_moe", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}

    def make_layer(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
        return MixtralLayer(config, layer, build)
