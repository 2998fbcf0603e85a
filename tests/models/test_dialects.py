"""config.json in the dialect of every architecture: what is left out, what is refused, and whole ones."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import ARCHITECTURES, edit_json, hf_greedy, make_model
from transformers import AutoConfig
from workload import Job, make_engine, run_jobs

from minillm.model_config import ModelConfig

SWITCHED_ON = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
DENSE = [kind for kind in ARCHITECTURES if "moe" not in kind and kind != "mixtral"]
FULL, SLIDING = "full_attention", "sliding_attention"
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"layer_types": [FULL, SLIDING, FULL]}, "layer_types has full_attention, sliding_attention, but"),
    ("mistral", {"sliding_window": 8, "layer_types": [FULL, SLIDING, FULL]}, "layer_types has .*sliding_window=8"),
    ("mistral", {"sliding_window": 0}, "sliding_window is 0"),
    ("mistral", {"sliding_window": "8"}, "sliding_window is '8'"),
    ("phi3", {"sliding_window": 8, "layer_types": [FULL] * 3}, "layer_types has full_attention, but"),
    ("qwen2", {"layer_types": [FULL, SLIDING, FULL]}, "layer_types has sliding_attention.*use_sliding_window is off"),
    ("qwen2", {**SWITCHED_ON, "layer_types": [FULL, SLIDING]}, "layer_types names 2 layers, num_hidden_layers is 3"),
    ("qwen3", {**SWITCHED_ON, "layer_types": [FULL, "chunked_attention", FULL]}, "'chunked_attention'; supported"),
    ("qwen3", {**SWITCHED_ON, "sliding_window": -1, "layer_types": None}, "sliding_window is -1"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is on"),
    ("gemma3_text", {"sliding_window": None, "layer_types": [SLIDING] * 3}, "there is no window for it: sliding"),
    ("gemma3_text", {"hidden_activation": "swish2"}, "hidden_act is 'swish2'"),
    ("nanochat", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'; nanochat can be"),
    ("nanochat", {"layer_types": [FULL, SLIDING, FULL]}, "layer_types has full_attention, sliding_attention, but"),
    ("opt", {"ffn_dim": None}, "config.json lacks ffn_dim"),
    ("opt", {"activation_function": "swish2"}, "hidden_act is 'swish2'"),
    ("phi3", {"rope_scaling": {"type": "su", "short_factor": [1.0]}, "rope_parameters": None}, "needs 4 numbers"),
    ("phi3", {"partial_rotary_factor": 0.4, "rope_parameters": None}, "head_dim is 8 and partial_rotary_factor 0.4"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "says"), BAD, ids=lambda value: str(value)[:40])
def test_what_cannot_be_served_is_refused_with_the_fields_name(
    kind: str, changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    make_model(tmp_path, kind)
    path = tmp_path / "config.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if name not in ("ffn_dim",) or value}))
    with pytest.raises(ValueError, match=says):
        make_engine(tmp_path)


def test_a_context_beyond_longropes_short_factors_is_refused_and_says_so(tmp_path: Path) -> None:
    rope = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    make_model(tmp_path, "phi3")
    edit_json(tmp_path / "config.json", rope_scaling=rope, rope_parameters=None, original_max_position_embeddings=64)
    with pytest.raises(ValueError, match=r"at most 64 positions; of LongRoPE's factors only the short ones are served"):
        make_engine(tmp_path, max_model_len=128)


def test_yarn_serves_what_its_factor_promises(tmp_path: Path) -> None:
    """Qwen3 as its card has it; beyond the original positions the tokens are transformers' own."""
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
    model = make_model(tmp_path, "qwen3", rope_parameters=rope, max_position_embeddings=40)
    engine, prompt = make_engine(tmp_path, max_model_len=128), [5 + i % 50 for i in range(100)]
    assert run_jobs(engine, [Job(tuple(prompt), 8)]).tokens(0) == hf_greedy(model, prompt, 8)
    with pytest.raises(ValueError, match="max_model_len is 129, but the model was made for at most 128 positions"):
        make_engine(tmp_path, max_model_len=129)


def test_models_with_pictures_are_refused(tmp_path: Path) -> None:
    make_model(tmp_path, "gemma3_text")
    edit_json(tmp_path / "config.json", architectures=["Gemma3ForConditionalGeneration"])
    with pytest.raises(
        ValueError, match="'Gemma3ForConditionalGeneration' is not supported; supported: Gemma3ForCausalLM"
    ):
        make_engine(tmp_path)


def test_what_a_config_leaves_out_is_what_transformers_would_take(tmp_path: Path) -> None:
    """Older configs, and those written by hand, name only what differs from the class's own defaults."""
    for kind in DENSE:
        folder = tmp_path / kind
        folder.mkdir()
        model = make_model(folder, kind)
        named = {"architectures", "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                 "intermediate_size", "ffn_dim", "num_key_value_heads"}  # fmt: skip
        path = folder / "config.json"
        short = {name: value for name, value in json.loads(path.read_text()).items() if name in named}
        same_as_theirs(ModelConfig.from_dict(short), type(model.config)(**short))


# Written like those of real models, without what no model here looks at.
REAL: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": {
        "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
        "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Qwen3-0.6B": {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
        "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_sliding_window": False, "vocab_size": 151936,
    },
    "Mistral-7B-v0.1": {
        "architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 32000,
    },
    "gemma-3-1b": {
        "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attn_logit_softcapping": None,
        "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152, "intermediate_size": 6912, "max_position_embeddings": 32768, "model_type": "gemma3_text",
        "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000,
        "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16", "vocab_size": 262144,
    },
    "Phi-3-mini-4k": {
        "architectures": ["Phi3ForCausalLM"], "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
        "max_position_embeddings": 4096, "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "vocab_size": 32064,
    },
    "opt-350m": {
        "architectures": ["OPTForCausalLM"], "activation_function": "relu", "do_layer_norm_before": False,
        "ffn_dim": 4096, "hidden_size": 1024, "max_position_embeddings": 2048, "model_type": "opt",
        "num_attention_heads": 16, "num_hidden_layers": 24, "torch_dtype": "float16", "vocab_size": 50272,
        "word_embed_proj_dim": 512,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_whole_configs_mean_what_they_mean_to_transformers(name: str) -> None:
    raw = REAL[name]
    ours, theirs = ModelConfig.from_dict(raw), AutoConfig.for_model(**json.loads(json.dumps(raw)))
    same_as_theirs(ours, theirs)
    ropes = getattr(theirs, "rope_parameters", None) or {}
    if "full_attention" in ropes:
        assert ours.local_rope is not None
        assert ours.local_rope.theta == ropes["sliding_attention"]["rope_theta"]
        assert ours.attention_scale == pytest.approx(theirs.query_pre_attn_scalar**-0.5)
        ropes = ropes["full_attention"]
    if ropes:
        assert ours.rope.theta == ropes["rope_theta"]
    assert ours.rope.share == (0.0 if raw["model_type"] == "opt" else 1.0)
    assert ours.dtype == raw["torch_dtype"]


def same_as_theirs(ours: ModelConfig, theirs: Any) -> None:
    kind, layers = theirs.model_type, theirs.num_hidden_layers
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings, kind
    size = theirs.hidden_size // theirs.num_attention_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or size), kind
    assert ours.max_position_embeddings == theirs.max_position_embeddings, kind
    windows = [None if layer_kind == FULL else theirs.sliding_window for layer_kind in kinds_of(theirs)]
    assert [ours.window(layer) for layer in range(layers)] == windows, kind
    if kind != "opt":
        assert ours.rms_norm_eps == theirs.rms_norm_eps, kind


def kinds_of(config: Any) -> list[str]:
    """Which of transformers' layers slide: some configs say it, for others their code looks at the window alone."""
    always = config.model_type in ("mistral", "phi3") and config.sliding_window is not None
    return getattr(config, "layer_types", None) or [SLIDING if always else FULL] * config.num_hidden_layers
