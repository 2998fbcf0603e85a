"""Norm, activation, embedding and rotary positions against plain formulas and Hugging Face's own modules."""

from typing import Any

import pytest
import torch
from paged import all_kernels
from tiny import LLAMA
from transformers import LlamaConfig, Phi3Config
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from minillm.kernels.torch.kernels import TorchKernels
from minillm.layers.activation import GatedActivation
from minillm.layers.build import LayerBuild
from minillm.layers.embedding import Embedding, LMHead
from minillm.layers.norm import LayerNorm, RMSNorm, make_norm
from minillm.layers.rotary import ROPE_TYPES, RotaryEmbedding
from minillm.model_config import ModelConfig

every_kernel = pytest.mark.parametrize("kernels", all_kernels(), ids=lambda kernels: kernels.name)
CPU = torch.device("cpu")


@every_kernel
def test_rms_norm_is_hugging_faces(kernels: TorchKernels) -> None:
    theirs, ours = LlamaRMSNorm(48, eps=1e-5), RMSNorm(48, 1e-5, LayerBuild(kernels=kernels))
    weight = torch.rand(48)
    theirs.weight.data.copy_(weight)
    ours.weight.data.copy_(weight)
    x = torch.randn(7, 48) * 3
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)


@every_kernel
def test_an_offset_norm_is_gemmas(kernels: TorchKernels) -> None:
    config = ModelConfig.from_dict({**LLAMA, "architectures": ["Gemma3ForCausalLM"]})
    theirs, ours = Gemma3RMSNorm(48, eps=1e-5), make_norm(config, LayerBuild(kernels=kernels))
    weight = torch.randn(48) / 3
    theirs.weight.data.copy_(weight)
    ours.weight.data.copy_(weight)
    x = torch.randn(7, 48) * 3
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_adds_to_the_stream_first(affine: bool) -> None:
    theirs, ours = torch.nn.LayerNorm(48, elementwise_affine=affine), LayerNorm(48, LayerBuild(), affine)
    if affine:
        for parameter, same in zip(ours.parameters(), theirs.parameters()):
            same.data.copy_(parameter.data.normal_())
    x, add = torch.randn(7, 48) * 3 + 2, torch.randn(7, 48)
    total = x + add
    torch.testing.assert_close(ours(x, add), theirs(total))
    assert torch.equal(x, total)
    torch.testing.assert_close(ours(x), theirs(total))


@every_kernel
def test_gated_activation_takes_gate_before_up(kernels: TorchKernels) -> None:
    gate_up = torch.tensor([[1.0, -2.0, 3.0, 10.0, 100.0, 1000.0]])
    got = GatedActivation("relu", LayerBuild(kernels=kernels))(gate_up)
    assert got.tolist() == [[10.0, 0.0, 3000.0]]


def test_an_unknown_activation_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"hidden_act is 'swish2'; supported: gelu, gelu_pytorch_tanh, relu, relu2, silu"
    ):
        GatedActivation("swish2", LayerBuild())


def test_embedding_looks_rows_up_and_a_tied_head_multiplies_with_the_same_table() -> None:
    embedding = Embedding(11, 4, LayerBuild())
    embedding.weight.data.normal_()
    ids = torch.tensor([3, 3, 10, 0])
    assert torch.equal(embedding(ids), embedding.weight[ids])
    head = LMHead(embedding, tied=True, build=LayerBuild())
    assert head.weight is embedding.weight
    hidden = torch.randn(2, 4)
    torch.testing.assert_close(head(hidden), hidden @ embedding.weight.T)


def test_logits_are_as_the_head_computes_them() -> None:
    """Whoever samples from them takes them as float32, which a kernel does while it reads them."""
    embedding = Embedding(11, 4, LayerBuild(torch.bfloat16))
    embedding.weight.data.normal_()
    assert LMHead(embedding, True, LayerBuild(torch.bfloat16))(torch.randn(2, 4).bfloat16()).dtype == torch.bfloat16


ROPES: list[dict[str, Any]] = [
    {"rope_type": "default", "rope_theta": 10000.0},
    {"rope_type": "default", "rope_theta": 500000.0},
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
    {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 8192},
    {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 8192},
    {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "original_max_position_embeddings": 4096},
    {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0, "original_max_position_embeddings": 32768,
     "attention_factor": 0.9},
    {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "original_max_position_embeddings": 4096,
     "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
    {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 4096,
     "mscale": 1.0, "mscale_all_dim": 0.5},
    {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 1.0, "original_max_position_embeddings": 4096},
]  # fmt: skip


@every_kernel
@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: "-".join(map(str, rope.values())))
def test_rotary_is_hugging_faces(rope: dict[str, Any], head_dim: int, kernels: TorchKernels) -> None:
    """The parameters that real models ship: Llama 2, 3.1 and 3.2, Qwen, gpt-oss, DeepSeek; at real positions."""
    limit = 4096
    settings = {**LLAMA, "head_dim": head_dim, "max_position_embeddings": limit}
    theirs = LlamaRotaryEmbedding(LlamaConfig(**settings, rope_parameters=dict(rope)))
    ours = RotaryEmbedding(ModelConfig.from_dict({**settings, "rope_parameters": rope}), torch.float32)
    ours.make_tables(limit, CPU)
    inv_freq, factor = ROPE_TYPES[rope["rope_type"]](ours.config.rope, head_dim, limit)
    torch.testing.assert_close(inv_freq, theirs.inv_freq, atol=0, rtol=1e-6)
    assert factor == pytest.approx(theirs.attention_scaling)
    positions = torch.tensor([0, 1, 2, 17, 1000, 4095])
    T, H, Hkv, D = len(positions), 3, 1, head_dim
    qkv = torch.randn(T, (H + 2 * Hkv) * D)
    heads = qkv.view(T, -1, D).transpose(0, 1)[None].clone()  # [1, heads, T, D], as they have it
    cos, sin = theirs(heads, positions[None])
    q, k = apply_rotary_pos_emb(heads[:, :H], heads[:, H : H + Hkv], cos, sin)
    cache = torch.zeros(T, 2 * Hkv * D)
    kernels.rotate_and_store(qkv, *ours.rows(positions), cache, torch.arange(T), H, Hkv)
    got = qkv.view(T, -1, D).transpose(0, 1)[None]
    torch.testing.assert_close(got[:, :H], q, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got[:, H : H + Hkv], k, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(cache.view(T, 2, D)[:, 0], k[0, 0], atol=1e-4, rtol=1e-4)


def test_an_unknown_rope_type_lists_the_known_ones() -> None:
    config = ModelConfig.from_dict({**LLAMA, "rope_parameters": {"rope_type": "spiral"}})
    with pytest.raises(ValueError, match=r"RoPE type 'spiral' is unknown; supported: default, .*llama3, .*yarn"):
        RotaryEmbedding(config, torch.float32)


@pytest.mark.parametrize(
    ("kind", "lacking"),
    [("linear", "factor"), ("llama3", "low_freq_factor"), ("llama3", "original_max_position_embeddings")],
)
def test_a_rope_type_without_its_parameter_names_it(kind: str, lacking: str) -> None:
    whole = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    rope = {"rope_type": kind, **{name: value for name, value in whole.items() if name != lacking}}
    embedding = RotaryEmbedding(ModelConfig.from_dict({**LLAMA, "rope_parameters": rope}), torch.float32)
    with pytest.raises(ValueError, match=f"RoPE type {kind!r} needs {lacking!r} in the config's rope parameters"):
        embedding.make_tables(16, CPU)


@pytest.mark.parametrize("share", [1.0, 0.75])
@pytest.mark.parametrize("given", [{}, {"factor": 3.0}, {"attention_factor": 1.2}])
def test_longrope_is_hugging_faces_up_to_the_original_context(given: dict[str, Any], share: float) -> None:
    limit, original, D = 4096, 512, 32
    pairs = int(D * share) // 2
    factors = {
        "short_factor": [1 + i / 10 for i in range(pairs)],
        "long_factor": [2.0 + i for i in range(pairs)],
    }
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": share, **factors, **given}
    sizes = {
        "hidden_size": 6 * D,
        "head_dim": D,
        "max_position_embeddings": limit,
        "original_max_position_embeddings": original,
    }
    theirs = Phi3RotaryEmbedding(Phi3Config(**{**LLAMA, "pad_token_id": 0, **sizes, "rope_parameters": dict(rope)}))
    raw = {**LLAMA, **sizes, "architectures": ["Phi3ForCausalLM"], "rope_parameters": rope}
    config = ModelConfig.from_dict(raw)
    ours = RotaryEmbedding(config, torch.float32)
    ours.make_tables(config.max_position_embeddings, CPU)
    positions = torch.arange(original)
    cos, sin = theirs(torch.zeros(1), positions[None])
    got_cos, got_sin = ours.rows(positions)
    torch.testing.assert_close(got_cos, cos[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got_sin.abs(), sin[0].abs(), atol=1e-4, rtol=1e-4)
    assert config.max_position_embeddings == original, "beyond it, other factors would hold"


def test_longrope_with_a_list_of_the_wrong_length() -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 7, "original_max_position_embeddings": 64}
    embedding = RotaryEmbedding(ModelConfig.from_dict({**LLAMA, "rope_parameters": rope}), torch.float32)
    with pytest.raises(ValueError, match="needs 8 numbers as 'short_factor'"):
        embedding.make_tables(16, CPU)


def test_every_rope_type_has_a_parity_case() -> None:
    assert {rope["rope_type"] for rope in ROPES} | {"longrope"} == set(ROPE_TYPES)
