"""Qwen3-MoE: Qwen3, with many small experts in the place of the feed-forward network, in all layers or in some."""

from torch import nn

from minillm.layers.build import LayerBuild
from minillm.layers.moe import MixtureOfExperts, MoeShape
from minillm.model_config import ModelConfig
from minillm.models.llama import LlamaForCausalLM
from minillm.models.qwen3 import Qwen3Layer
from minillm.models.registry import register


class Qwen3MoeLayer(Qwen3Layer):
    def make_mlp(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
        """Every ``decoder_sparse_step``-th layer has experts, but not those in ``mlp_only_layers``."""
        raw = config.raw
        step, dense = raw.get("decoder_sparse_step", 1), raw.get("mlp_only_layers") or []
        num_experts = raw.get("num_experts", raw.get("num_local_experts", 128))
        if not isinstance(step, int) or step < 1:
            raise ValueError(f"config.json: decoder_sparse_step is {step!r}; it must be a whole number of at least 1")
        if not num_experts or layer in dense or (layer + 1) % step:
            return super().make_mlp(config, layer, build)
        shape = MoeShape(
            num_experts,
            top_k=raw.get("num_experts_per_tok", 8),
            intermediate_size=raw.get("moe_intermediate_size", 768),
            renormalise=bool(raw.get("norm_topk_prob", False)),
        )
        return MixtureOfExperts(config, shape, layer, build)


@register("Qwen3MoeForCausalLM")
class Qwen3MoeForCausalLM(LlamaForCausalLM):
    def make_layer(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
        return Qwen3MoeLayer(config, layer, build)
