"""Llama: the architecture that most open models vary. A plain module,
``model(input_ids, positions, batch) -> hidden``."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from minillm.attention.batch import ForwardBatch
from minillm.layers.activation import GatedActivation
from minillm.layers.attention import Attention
from minillm.layers.build import LayerBuild
from minillm.layers.embedding import Embedding, LMHead
from minillm.layers.linear import ColumnParallelLinear, RowParallelLinear
from minillm.layers.norm import make_norm
from minillm.layers.rotary import RotaryEmbedding
from minillm.model_config import ModelConfig
from minillm.models.registry import register
from minillm.probe import probe


class LlamaMLP(nn.Module):
    """``down(act(gate x) * up x)``, gate and up fused into one product."""

    def __init__(self, config: ModelConfig, build: LayerBuild) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_up_proj = ColumnParallelLinear(hidden, [inner, inner], bias, build.at("gate_up_proj"))
        self.act = GatedActivation(config.hidden_act, build)
        self.down_proj = RowParallelLinear(inner, hidden, bias, build.at("down_proj"))

    def forward(self, x: Tensor, batch: ForwardBatch) -> Tensor:
        """``[T, hidden]`` -> ``[T, hidden]``."""
        return self.down_proj(self.gate_up_proj.gated(x, batch, self.act), batch)


class LlamaLayer(nn.Module):
    """Attention, then the feed-forward network, each on a normalised copy of the residual stream and then added to it.

    What a layer adds at its end is added by the next norm, which has the stream in its hands anyway. An architecture
    with another attention or another feed-forward network overrides `make_attention` or `make_mlp`.
    """

    def __init__(self, config: ModelConfig, layer: int, build: LayerBuild) -> None:
        super().__init__()
        self.layer = layer
        self.input_layernorm: nn.Module = make_norm(config, build)
        self.self_attn = self.make_attention(config, layer, build.at("self_attn"))
        self.post_attention_layernorm: nn.Module = make_norm(config, build)
        self.mlp = self.make_mlp(config, layer, build.at("mlp"))

    def make_attention(self, config: ModelConfig, layer: int, build: LayerBuild) -> Attention:
        return Attention(config, layer, build)

    def make_mlp(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
        """Something that takes ``[T, hidden]``, and the batch, to ``[T, hidden]``."""
        return LlamaMLP(config, build)

    def forward(self, stream: Tensor, add: Tensor | None, batch: ForwardBatch) -> Tensor:
        """``stream [T, hidden]``, the residual stream, takes up ``add`` and attention's output; the rest is
        returned."""
        hidden = self.input_layernorm(stream, add)
        probe.on and probe("layer.attention", layer=self.layer, stream=stream, hidden=hidden, batch=batch)
        attended = self.self_attn(hidden, batch)
        hidden = self.post_attention_layernorm(stream, attended)
        probe.on and probe("layer.mlp", layer=self.layer, stream=stream, hidden=hidden, batch=batch)
        return self.mlp(hidden, batch)


class LlamaModel(nn.Module):
    """Embedding, layers, final norm."""

    def __init__(self, config: ModelConfig, layers: Iterable[nn.Module], build: LayerBuild) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, build.at("embed_tokens"))
        self.layers = nn.ModuleList(layers)
        self.norm: nn.Module = make_norm(config, build)


@register("LlamaForCausalLM")
class LlamaForCausalLM(nn.Module):
    """The whole model. Its parameters are named as in the checkpoint, but for the fused ones, which ``fused`` lists."""

    fused = {  # our parameter -> the checkpoint's tensors that are its parts, in order
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    }

    def __init__(self, config: ModelConfig, build: LayerBuild) -> None:
        super().__init__()
        self.config = config
        count = config.num_hidden_layers
        layers = (self.make_layer(config, layer, build.at(f"model.layers.{layer}")) for layer in range(count))
        self.model = LlamaModel(config, layers, build.at("model"))
        self.lm_head = LMHead(self.model.embed_tokens, config.tie_word_embeddings, build.at("lm_head"))
        self.rotary = RotaryEmbedding(config, build.dtype)

    def make_layer(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
        """Layer number ``layer``: called as ``(stream [T, hidden], add [T, hidden] or None, batch) -> [T, hidden]``."""
        return LlamaLayer(config, layer, build)

    def make_tables(self, max_positions: int, device: torch.device) -> None:
        """Work out once, after loading, what is looked up by position."""
        self.rotary.make_tables(max_positions, device)

    def embed(self, input_ids: Tensor) -> Tensor:
        """``[T]`` -> ``[T, hidden]``, the beginning of the residual stream."""
        return self.model.embed_tokens(input_ids)

    def look_up(self, positions: Tensor, batch: ForwardBatch) -> None:
        """Put into ``batch`` what the layers need to know of ``positions [T]``."""
        batch.rope = self.rotary.rows(positions)

    def forward(self, input_ids: Tensor, positions: Tensor, batch: ForwardBatch) -> Tensor:
        """``input_ids [T], positions [T]`` -> ``[T, hidden]``, normalised, ready for `compute_logits`."""
        probe.on and probe("model.embed", input_ids=input_ids, positions=positions, batch=batch)
        stream = self.embed(input_ids)  # [T, hidden]
        self.look_up(positions, batch)
        add = None
        for layer in self.model.layers:
            add = layer(stream, add, batch)  # [T, hidden]
        probe.on and probe("model.norm", stream=stream, add=add, batch=batch)
        return self.model.norm(stream, add)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """``[rows, hidden]`` -> ``[rows, V]``."""
        return self.lm_head(hidden)
