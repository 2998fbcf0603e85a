"""nanochat (Karpathy 2025): Llama that turns heads the other way, has a plain feed-forward network with a squared ReLU,
and norms without weights.

The embedding is normalised too, and so is each query and key head. There it is after the turn and here before it, which
is the same: a turn changes no length, and there is no weight that would have to stay with its number.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from minillm.attention.batch import ForwardBatch
from minillm.layers.activation import Activation
from minillm.layers.attention import Attention
from minillm.layers.build import LayerBuild
from minillm.layers.linear import ColumnParallelLinear, RowParallelLinear
from minillm.model_config import ModelConfig
from minillm.models.llama import LlamaForCausalLM, LlamaLayer
from minillm.models.registry import register


class PlainNorm(nn.Module):
    """``x / sqrt(mean(x^2) + eps)``, the mean over the last dimension: RMSNorm without a weight."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """``[T, size]`` -> the same shape. ``add`` is added to ``x`` first, in place, as in `RMSNorm`."""
        if add is not None:
            x += add
        return F.rms_norm(x, x.shape[-1:], eps=self.eps)


class NanoChatAttention(Attention):
    def __init__(self, config: ModelConfig, layer: int, build: LayerBuild) -> None:
        super().__init__(config, layer, build)
        self.eps = config.rms_norm_eps

    def prepare_heads(self, qkv: Tensor) -> None:
        """Each query and key head of ``qkv [T, (H + 2 * Hkv) * D]`` is normalised over its D numbers, in place."""
        heads = qkv.view(len(qkv), -1, self.head_dim)[:, : self.num_heads + self.num_kv_heads]
        heads.copy_(F.rms_norm(heads, heads.shape[-1:], eps=self.eps))


class NanoChatMLP(nn.Module):
    """``fc2(act(fc1 x))``: no gate."""

    def __init__(self, config: ModelConfig, build: LayerBuild) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.fc1 = ColumnParallelLinear(hidden, [inner], bias, build.at("fc1"))
        self.activation = Activation(config.hidden_act)
        self.fc2 = RowParallelLinear(inner, hidden, bias, build.at("fc2"))

    def forward(self, x: Tensor, batch: ForwardBatch) -> Tensor:
        """``[T, hidden]`` -> ``[T, hidden]``."""
        return self.fc2(self.activation(self.fc1(x, batch)), batch)


class NanoChatLayer(LlamaLayer):
    def __init__(self, config: ModelConfig, layer: int, build: LayerBuild) -> None:
        super().__init__(config, layer, build)
        self.input_layernorm = PlainNorm(config.rms_norm_eps)
        self.post_attention_layernorm = PlainNorm(config.rms_norm_eps)

    def make_attention(self, config: ModelConfig, layer: int, build: LayerBuild) -> Attention:
        return NanoChatAttention(config, layer, build)

    def make_mlp(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
        return NanoChatMLP(config, build)


@register("NanoChatForCausalLM")
class NanoChatForCausalLM(LlamaForCausalLM):
    def __init__(self, config: ModelConfig, build: LayerBuild) -> None:
        super().__init__(config, build)
        self.model.norm = PlainNorm(config.rms_norm_eps)

    def make_layer(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
        return NanoChatLayer(config, layer, build)

    def embed(self, input_ids: Tensor) -> Tensor:
        """``[T]`` -> ``[T, hidden]``, normalised before the first layer sees it."""
        stream = super().embed(input_ids)
        return F.rms_norm(stream, stream.shape[-1:], eps=self.config.rms_norm_eps)

    def look_up(self, positions: Tensor, batch: ForwardBatch) -> None:
        """cos and sin for ``positions [T]`` into ``batch.rope``, ``[T, D]`` each, for a turn the other way.

        A pair (a, b) becomes (a cos + b sin, b cos - a sin), where Llama's becomes (a cos - b sin, b cos + a sin).
        """
        cos, sin = self.rotary.rows(positions)
        batch.rope = cos, -sin

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """``[rows, hidden]`` -> ``[rows, V]``, pressed below a cap, in float32, where the config has one."""
        logits, cap = super().compute_logits(hidden), self.config.final_logit_softcapping
        return logits if cap is None else (logits.float() / cap).tanh() * cap
