"""OPT (Zhang et al. 2022), from before Llama: learned positions, LayerNorm, a plain feed-forward network, biases.

The 350m model is an odd one: it normalises after each part instead of before, and its embedding is narrower than its
layers, with a projection on either side.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from minillm.attention.batch import ForwardBatch
from minillm.layers.activation import Activation
from minillm.layers.attention import Attention
from minillm.layers.build import LayerBuild
from minillm.layers.embedding import Embedding, LMHead
from minillm.layers.linear import ColumnParallelLinear, RowParallelLinear
from minillm.layers.norm import LayerNorm
from minillm.model_config import ModelConfig
from minillm.models.registry import register
from minillm.parallel.group import SINGLE
from minillm.probe import probe

FIRST_ROW = 2  # of the table of positions: the two before it are never used


class OPTLayer(nn.Module):
    """As in Llama: attention, then the feed-forward network, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int, build: LayerBuild) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        affine = config.raw.get("layer_norm_elementwise_affine", True)
        self.layer, self.norm_first = layer, config.raw.get("do_layer_norm_before", True)
        self.self_attn = Attention(config, layer, build.at("self_attn"))
        self.self_attn_layer_norm = LayerNorm(hidden, build, affine)
        self.fc1 = ColumnParallelLinear(hidden, [inner], bias, build.at("fc1"))
        self.activation = Activation(config.hidden_act)
        self.fc2 = RowParallelLinear(inner, hidden, bias, build.at("fc2"))
        self.final_layer_norm = LayerNorm(hidden, build, affine)

    def mlp(self, hidden: Tensor, batch: ForwardBatch) -> Tensor:
        """``[T, hidden]`` -> ``[T, hidden]``."""
        return self.fc2(self.activation(self.fc1(hidden, batch)), batch)

    def forward(self, stream: Tensor, add: Tensor | None, batch: ForwardBatch) -> tuple[Tensor, Tensor | None]:
        """``stream, add [T, hidden]`` -> the same for the next layer."""
        hidden = self.self_attn_layer_norm(stream, add) if self.norm_first else stream
        probe.on and probe("layer.attention", layer=self.layer, stream=stream, hidden=hidden, batch=batch)
        attended = self.self_attn(hidden, batch)
        if self.norm_first:
            hidden = self.final_layer_norm(stream, attended)
        else:
            hidden = self.self_attn_layer_norm(stream, attended)
        probe.on and probe("layer.mlp", layer=self.layer, stream=stream, hidden=hidden, batch=batch)
        fed = self.mlp(hidden, batch)
        return (stream, fed) if self.norm_first else (self.final_layer_norm(hidden, fed), None)


class OPTDecoder(nn.Module):
    def __init__(self, config: ModelConfig, build: LayerBuild) -> None:
        super().__init__()
        raw, hidden = config.raw, config.hidden_size
        narrow = raw.get("word_embed_proj_dim") or hidden
        alone = replace(build, group=SINGLE)  # every rank holds what is small whole
        positions = config.max_position_embeddings + FIRST_ROW
        self.embed_tokens = Embedding(config.vocab_size, narrow, build.at("embed_tokens"))
        self.embed_positions = Embedding(positions, hidden, alone.at("embed_positions"))
        self.project_in = self.project_out = None
        if narrow != hidden:
            self.project_in = RowParallelLinear(narrow, hidden, False, alone.at("project_in"))
            self.project_out = RowParallelLinear(hidden, narrow, False, alone.at("project_out"))
        count = config.num_hidden_layers
        self.layers = nn.ModuleList(OPTLayer(config, layer, build.at(f"layers.{layer}")) for layer in range(count))
        has_norm = raw.get("do_layer_norm_before", True) and not raw.get("_remove_final_layer_norm", False)
        affine = raw.get("layer_norm_elementwise_affine", True)
        self.final_layer_norm = LayerNorm(hidden, build, affine) if has_norm else None


class OPTModel(nn.Module):
    def __init__(self, config: ModelConfig, build: LayerBuild) -> None:
        super().__init__()
        self.decoder = OPTDecoder(config, build.at("decoder"))

    @property
    def embed_tokens(self) -> Embedding:
        """Where every other model has it."""
        return self.decoder.embed_tokens


@register("OPTForCausalLM")
class OPTForCausalLM(nn.Module):
    fused = {"qkv_proj": ("q_proj", "k_proj", "v_proj")}
    spelling = {"o_proj": "out_proj"}

    def __init__(self, config: ModelConfig, build: LayerBuild) -> None:
        super().__init__()
        self.config = config
        self.model = OPTModel(config, build.at("model"))
        self.lm_head = LMHead(self.model.decoder.embed_tokens, config.tie_word_embeddings, build.at("lm_head"))

    def make_tables(self, max_positions: int, device: torch.device) -> None:
        """Positions were learned: their table is in the checkpoint."""

    def forward(self, input_ids: Tensor, positions: Tensor, batch: ForwardBatch) -> Tensor:
        """``input_ids [T], positions [T]`` -> ``[T, size of the embedding]``, ready for `compute_logits`."""
        decoder = self.model.decoder
        probe.on and probe("model.embed", input_ids=input_ids, positions=positions, batch=batch)
        stream = decoder.embed_tokens(input_ids)  # [T, size of the embedding]
        if decoder.project_in is not None:
            stream = decoder.project_in(stream, batch)
        stream = stream + decoder.embed_positions(positions + FIRST_ROW)  # [T, hidden]
        nothing = stream[:, :0]
        batch.rope = nothing, nothing  # no number of any head is turned
        add = None
        for layer in decoder.layers:
            stream, add = layer(stream, add, batch)
        probe.on and probe("model.norm", stream=stream, add=add, batch=batch)
        if decoder.final_layer_norm is not None:
            stream = decoder.final_layer_norm(stream, add)
        elif add is not None:
            stream = stream + add
        return stream if decoder.project_out is None else decoder.project_out(stream, batch)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """``[rows, size of the embedding]`` -> ``[rows, V]``."""
        return self.lm_head(hidden)
