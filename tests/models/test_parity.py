"""The same logits (within 1e-4) and greedy tokens as Hugging Face, in float32, for every option of a Llama
checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from parity import COUNT, assert_same_as_hf, greedy_with_logits, random_prompt
from tiny import Oracle, hf_greedy, hf_logits, make_llama, write_v4_config
from transformers import LlamaForCausalLM
from workload import Job, make_engine, run_jobs

ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64,
    },
    "yarn-with-everything": {
        "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 64,
        "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.3, "truncate": False,
    },
    "yarn-mscale": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64,
        "mscale": 1.4, "mscale_all_dim": 0.7,
    },
}  # fmt: skip

OPTIONS: dict[str, dict[str, Any]] = {
    "grouped-query-attention": {},
    "multi-head-attention": {"num_key_value_heads": 6},
    "one-kv-head": {"num_key_value_heads": 1},
    "attention-bias": {"attention_bias": True},
    "mlp-bias": {"mlp_bias": True},
    "both-biases": {"attention_bias": True, "mlp_bias": True},
    "tied-head": {"tie_word_embeddings": True},
    "head-dim-from-hidden-size": {"head_dim": None},
    "head-dim-over-hidden-size": {"head_dim": 32},
    "one-layer": {"num_hidden_layers": 1},
    "gelu": {"hidden_act": "gelu"},
    "gelu-tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "relu": {"hidden_act": "relu"},
    "large-epsilon": {"rms_norm_eps": 0.1},
    "other-seed": {"seed": 7},
    **{f"rope-{name}": {"rope_parameters": rope} for name, rope in ROPES.items()},
}


@pytest.mark.parametrize("written", ["v4", "v5"])
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_gives_hugging_faces_logits_and_tokens(option: str, written: str, tmp_path: Path) -> None:
    model = make_llama(tmp_path, **OPTIONS[option])
    if written == "v4":
        write_v4_config(tmp_path)
    assert_same_as_hf(make_engine(tmp_path), model, [random_prompt(37)])


def test_v4_called_the_rope_type_just_type(tmp_path: Path) -> None:
    import json

    model = make_llama(tmp_path, rope_parameters=ROPES["linear"])
    write_v4_config(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_scaling"] = {"type": "linear", "factor": 4.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same_as_hf(make_engine(tmp_path), model, [random_prompt(37)])


@pytest.mark.parametrize("option", ["rope-llama3", "rope-yarn-with-everything"])
def test_hugging_face_itself_reads_the_rewritten_v4_config_the_same_way(option: str, tmp_path: Path) -> None:
    """The oracle of the oracle: our v4 writing is one that transformers understands."""
    model = make_llama(tmp_path, **OPTIONS[option])
    write_v4_config(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    ids = random_prompt(80)
    torch.testing.assert_close(hf_logits(again, ids), hf_logits(model, ids))


def test_greedy_tokens_are_those_of_hugging_faces_own_generate(oracle: Oracle) -> None:
    prompt = random_prompt(20, vocab_size=258)
    expected = oracle.model.generate(
        torch.tensor([prompt]), max_new_tokens=COUNT, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, len(prompt) :].tolist()
    assert hf_greedy(oracle.model, prompt, COUNT) == expected
    assert run_jobs(make_engine(oracle.folder), [Job(tuple(prompt), COUNT)]).tokens(0) == expected


@pytest.mark.parametrize("shard_size", ["20KB", "60KB"])
def test_sharded_checkpoints(shard_size: str, tmp_path: Path) -> None:
    model = make_llama(tmp_path, max_shard_size=shard_size)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert_same_as_hf(make_engine(tmp_path), model, [random_prompt(9)], 16)


def test_shards_without_an_index_are_all_read(tmp_path: Path) -> None:
    model = make_llama(tmp_path, max_shard_size="60KB")
    (tmp_path / "model.safetensors.index.json").unlink()
    assert_same_as_hf(make_engine(tmp_path), model, [random_prompt(9)], 16)


def test_a_bfloat16_checkpoint_computed_in_float32(tmp_path: Path) -> None:
    make_llama(tmp_path, dtype=torch.bfloat16)
    model = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert_same_as_hf(make_engine(tmp_path), model, [random_prompt(30)])


def test_a_bfloat16_model_stays_near_float32(tmp_path: Path) -> None:
    """bf16 has 8 bits: not the same logits, but near ones, no further from float32 than Hugging Face's own are."""
    make_llama(tmp_path, dtype=torch.bfloat16)
    half = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    full = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ((tokens, logits),) = greedy_with_logits(make_engine(tmp_path, dtype="bfloat16"), [random_prompt(30)], 16)
    ids = random_prompt(30) + tokens
    exact = hf_logits(full, ids)
    theirs = (hf_logits(half, ids) - exact)[29:-1].abs().mean()
    ours = (logits - exact[29:-1]).abs().mean()
    assert 0 < ours < 2 * theirs


@pytest.mark.parametrize("page_size", [1, 3, 16, 17, 64, "max_model_len"])
@pytest.mark.parametrize("plain", [{}, {"pack_weights": False}, {"kernels": "torch"}], ids=str)
def test_every_page_size(oracle: Oracle, page_size: int | str, plain: dict[str, Any]) -> None:
    engine = make_engine(oracle.folder, page_size=page_size, max_cached_tokens=512, **plain)
    assert_same_as_hf(engine, oracle.model, [random_prompt(50)])


@pytest.mark.parametrize("budget", [1, 7, 16, 50, 51])
def test_chunked_prefill(oracle: Oracle, budget: int) -> None:
    engine = make_engine(oracle.folder, max_num_batched_tokens=budget)
    assert_same_as_hf(engine, oracle.model, [random_prompt(50)])


def test_prefill_and_decode_of_many_lengths_in_one_batch(oracle: Oracle) -> None:
    """Prompts of different lengths, chunked by a small budget: every kind of step there is."""
    prompts = [random_prompt(length, seed=length) for length in (1, 2, 15, 16, 17, 40)]
    assert_same_as_hf(make_engine(oracle.folder, max_num_batched_tokens=20), oracle.model, prompts, 40)


def test_without_reusing_the_cache(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder, reuse_kv=False)
    assert_same_as_hf(engine, oracle.model, [random_prompt(20), random_prompt(9, seed=1)], 32)


def test_up_to_the_context_limit(oracle: Oracle) -> None:
    """The last position that the model knows is used, and the answer ends there."""
    engine = make_engine(oracle.folder)
    prompt = random_prompt(200)
    ((tokens, _),) = greedy_with_logits(engine, [prompt], 1000)
    assert len(prompt) + len(tokens) == engine.setup.max_model_len == 256
    assert tokens == oracle.greedy(prompt, 56)
