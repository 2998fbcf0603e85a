"""The two configurations: names, aliases, and config.json as transformers v4 and v5 write it."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from tiny import LLAMA, Oracle, edit_json, make_llama, write_v4_config

from minillm.config import ALIASES, ONLY, SWITCH_ALIASES, EngineConfig
from minillm.engine.engine import Engine
from minillm.model_config import ModelConfig
from minillm.probe import listen
from minillm.setup import Setup


def test_defaults_are_possible_settings() -> None:
    config = EngineConfig()
    assert (config.model, config.batching, config.max_num_seqs) == ("nano-llama", "continuous", 256)
    assert Setup.of(config).page_size == 16


def test_every_alias_names_a_setting() -> None:
    names = {field.name for field in dataclasses.fields(EngineConfig)}
    assert set(ALIASES.values()) <= names and not set(ALIASES) & names


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_every_alias_sets_what_it_names(alias: str) -> None:
    value: Any = {"model_path": "x", "mem_fraction_static": 0.25, "schedule_policy": "priority"}.get(alias, 7)
    assert getattr(EngineConfig.from_settings(**{alias: value}), ALIASES[alias]) == value


@pytest.mark.parametrize("alias", sorted(SWITCH_ALIASES))
def test_every_switch_alias_means_one_of_our_values(alias: str) -> None:
    target, meaning = SWITCH_ALIASES[alias]
    for value, ours in meaning.items():
        assert getattr(EngineConfig.from_settings(**{alias: value}), target) == ours
    with pytest.raises(ValueError, match=f"{alias} is 'yes'"):
        EngineConfig.from_settings(**{alias: "yes"})


def test_the_prefix_cache_needs_kv_that_is_kept() -> None:
    assert Setup.of(EngineConfig(prefix_cache="auto")).shares_prefixes
    assert not Setup.of(EngineConfig(prefix_cache="auto", reuse_kv=False)).shares_prefixes
    with pytest.raises(ValueError, match="reuse_kv=False"):
        EngineConfig(prefix_cache="radix", reuse_kv=False)
    with pytest.raises(ValueError, match="prefix_cache is 'none'"):
        EngineConfig(prefix_cache="none", scheduling_policy="lpm")


def test_the_prefix_cache_can_be_turned_off_in_every_writing() -> None:
    """``--set prefix_cache=none`` on a command line reads as Python's None."""
    for off in ("none", None):
        assert not Setup.of(EngineConfig(prefix_cache=off)).shares_prefixes


def test_the_same_setting_twice_under_two_names() -> None:
    with pytest.raises(ValueError, match=r"'page_size' is given twice, as 16 and \(by its alias 'block_size'\) as 8"):
        EngineConfig.from_settings(page_size=16, block_size=8)
    assert EngineConfig.from_settings(page_size=8, block_size=8).page_size == 8


def test_a_page_may_be_a_whole_request() -> None:
    assert Setup.of(EngineConfig(page_size="max_model_len", max_model_len=100)).page_size == 100
    setup = Setup.of(EngineConfig(page_size="max_model_len"))
    assert setup.page_size == setup.max_model_len == setup.model_config.context_limit == 2048


def test_what_needs_whole_sequences_in_a_step_is_checked_once_the_limit_is_known() -> None:
    sizes: dict[str, Any] = {"reuse_kv": False, "max_num_batched_tokens": 100}
    config = EngineConfig(**sizes)  # the model's own limit is not known yet
    with pytest.raises(ValueError, match=r"max_num_batched_tokens is 100.*max_model_len=2048"):
        Setup.of(config)
    with pytest.raises(ValueError, match="max_num_batched_tokens is 100"):
        EngineConfig(**sizes, max_model_len=101)
    assert Setup.of(EngineConfig(**sizes, max_model_len=100)).max_model_len == 100


def test_nobody_writes_into_a_config_and_each_model_gets_its_own_limit(oracle: Oracle) -> None:
    """A config is what was asked for, also after an engine was made of it, and whoever else is made of it."""
    config = EngineConfig()
    before = dataclasses.asdict(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.page_size = 3  # type: ignore[misc]
    other = dataclasses.replace(config, model=str(oracle.folder))
    assert (Setup.of(config).max_model_len, Setup.of(other).max_model_len) == (2048, 256)
    Engine(dataclasses.replace(other, num_pages=4, page_size=64))
    assert dataclasses.asdict(config) == before


def test_what_auto_became_stands_in_the_setup_with_its_reason() -> None:
    setup = Setup.of(EngineConfig(device="cpu"))
    assert setup.reasons["dtype"].startswith("float32: ") and setup.reasons["page_size"].startswith("16: ")
    assert setup.reasons["async_scheduling"].startswith("False: on a CPU") and "device" not in setup.reasons
    assert Setup.of(EngineConfig(device="cpu", dtype="bfloat16", page_size=4, async_scheduling=True)).reasons == {}
    with listen("engine.step", lambda event: None):
        assert Setup.of(EngineConfig()).watched == "somebody listens to the probes"
    assert Setup.of(EngineConfig()).watched is None


def test_a_config_prints() -> None:
    assert "page_size=16" in repr(EngineConfig(page_size=16)) and "raw" not in repr(ModelConfig.from_dict(LLAMA))


# --- ModelConfig


@pytest.mark.parametrize("written", ["v4", "v5"])
def test_both_writings_mean_the_same(tmp_path: Path, written: str) -> None:
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}
    make_llama(tmp_path, rope_parameters=rope, attention_bias=True, hidden_act="gelu", rms_norm_eps=0.25)
    if written == "v4":
        write_v4_config(tmp_path)
    config = ModelConfig.from_folder(tmp_path)
    assert config.architecture == "LlamaForCausalLM"
    assert (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (
        101,
        48,
        80,
        3,
    )
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (6, 2, 16)
    assert (config.attention_bias, config.mlp_bias, config.tie_word_embeddings) == (True, False, False)
    assert (config.hidden_act, config.rms_norm_eps, config.dtype) == ("gelu", 0.25, "float32")
    assert (config.max_position_embeddings, config.bos_token_id, config.eos_token_ids) == (256, 0, (1,))
    assert (config.rope.type, config.rope.theta) == ("linear", 5000.0)
    assert config.rope.parameters["factor"] == 4.0
    assert not {"rope_theta", "rope_type", "type"} & set(config.rope.parameters)


@pytest.mark.parametrize(
    ("raw", "theta", "kind"),
    [
        ({}, 10000.0, "default"),
        ({"rope_theta": 500.0}, 500.0, "default"),
        ({"rope_theta": 500.0, "rope_scaling": None}, 500.0, "default"),
        ({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}, 500.0, "linear"),
        ({"rope_theta": 500.0, "rope_scaling": {"rope_type": "yarn", "type": "linear"}}, 500.0, "yarn"),
        ({"rope_theta": 500.0, "rope_parameters": {"rope_type": "yarn", "rope_theta": 7.0}}, 7.0, "yarn"),
        ({"rope_parameters": {"rope_theta": 1_000_000}}, 1e6, "default"),
    ],
)
def test_where_the_rope_comes_from(raw: dict[str, Any], theta: float, kind: str) -> None:
    """What stands inside the dict wins, then the top level, then 10000."""
    rope = ModelConfig.from_dict({**LLAMA, **raw}).rope
    assert (rope.theta, rope.type) == (theta, kind)


@pytest.mark.parametrize(
    "named", [{"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}, {"torch_dtype": "torch.bfloat16"}]
)
def test_the_checkpoints_dtype_under_either_name(named: dict[str, str]) -> None:
    assert ModelConfig.from_dict({**LLAMA, **named}).dtype == "bfloat16"


def test_what_a_config_may_leave_out() -> None:
    short = {name: LLAMA[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    config = ModelConfig.from_dict({**short, "num_attention_heads": 6})
    assert (config.num_key_value_heads, config.head_dim) == (6, 8)
    assert (config.architecture, config.hidden_act, config.eos_token_ids) == ("unknown", "silu", ())


def test_end_tokens_are_one_or_several_and_generation_config_wins(tmp_path: Path) -> None:
    make_llama(tmp_path)
    assert ModelConfig.from_dict({**LLAMA, "eos_token_id": [3, 4]}).eos_token_ids == (3, 4)
    assert ModelConfig.from_dict({**LLAMA, "eos_token_id": None}).eos_token_ids == ()
    edit_json(tmp_path / "generation_config.json", eos_token_id=[5, 6], temperature=0.1)
    assert ModelConfig.from_folder(tmp_path).eos_token_ids == (5, 6)


YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 200}


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        (None, 256),
        (YARN, 800),
        ({**YARN, "factor": 1.0}, 256),
        ({"rope_type": "yarn", "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "linear", "factor": 2.5}, 640),
        ({"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 200}, 256),
    ],
)
def test_yarn_and_linear_scaling_reach_further_than_the_training(rope: dict[str, Any] | None, limit: int) -> None:
    """As their model cards say: original x factor, where the config does not count it in already."""
    assert ModelConfig.from_dict({**LLAMA, "rope_parameters": rope}).context_limit == limit


def test_gemma_counts_its_factor_in_already() -> None:
    rope = {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {"rope_type": "default"}}
    config = ModelConfig.from_dict({**LLAMA, "architectures": ["Gemma3ForCausalLM"], "rope_parameters": rope})
    assert config.rope.type == "linear" and config.context_limit == 256


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5'; it must be a number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rope_theta": "10000"}, "rope_theta is '10000'"),
        ({"rope_theta": True}, "rope_theta is True"),
        ({"eos_token_id": "2"}, "eos_token_id is '2'; it must be a whole number"),
        ({"eos_token_id": [2, "3"]}, "eos_token_id is '3'"),
        ({"eos_token_id": True}, "eos_token_id is True"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'; it must be true or false"),
        ({"attention_bias": 1}, "attention_bias is 1"),
        ({"use_sliding_window": "no"}, "use_sliding_window is 'no'"),
        ({"layer_types": 5}, "layer_types is 5; it must be a list of names"),
        ({"layer_types": [["full_attention"]]}, "layer_types is [['full_attention']]"),
        ({"rope_parameters": [1]}, "rope_parameters is [1]; it must be an object"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; it must be an object"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "4"}}, "factor is '4'"),
        ({"partial_rotary_factor": 2.0}, "partial_rotary_factor is 2.0; it must be a share, above 0 and at most 1"),
        ({"partial_rotary_factor": 0}, "partial_rotary_factor is 0"),
        ({"rope_parameters": {"partial_rotary_factor": -0.5}}, "partial_rotary_factor is -0.5"),
        ({"rope_scaling": {"partial_rotary_factor": "half"}}, "partial_rotary_factor is 'half'"),
        ({"rope_parameters": {"full_attention": {"partial_rotary_factor": 1.5}}}, "partial_rotary_factor is 1.5"),
        ({"max_window_layers": "28"}, "max_window_layers is '28'"),
    ],
)
def test_fields_of_the_wrong_kind_are_refused_by_name(raw: dict[str, Any], says: str) -> None:
    for architecture in ("LlamaForCausalLM", "Qwen2ForCausalLM", "Gemma3ForCausalLM", "Phi3ForCausalLM"):
        with pytest.raises(ValueError, match=re.escape(f"config.json: {says}")):
            ModelConfig.from_dict({**LLAMA, "architectures": [architecture], **raw})


@pytest.mark.parametrize("raw", [{"eos_token_id": 0}, {"tie_word_embeddings": None}, {"rope_parameters": None},
                                 {"layer_types": None}, {"rms_norm_eps": 1}, {"partial_rotary_factor": 1},
                                 {"partial_rotary_factor": 0.5}])  # fmt: skip
def test_fields_of_the_right_kind_are_taken(raw: dict[str, Any]) -> None:
    assert ModelConfig.from_dict({**LLAMA, **raw}).context_limit == 256


@pytest.mark.parametrize("name", sorted(ONLY))
def test_settings_of_others_that_change_nothing_here(name: str) -> None:
    """They are accepted with what is so anyway, and refused with anything else."""
    for value in ONLY[name]:
        assert EngineConfig.from_settings(**{name: value}) == EngineConfig()
    with pytest.raises(ValueError, match=f"{name} is 'other', and only .* is served yet"):
        EngineConfig.from_settings(**{name: "other"})


def test_what_only_others_serve_is_named() -> None:
    with pytest.raises(ValueError, match="tensor_parallel_size is 2, and only 1 is served yet"):
        EngineConfig.from_settings(tensor_parallel_size=2)
    names = {field.name for field in dataclasses.fields(EngineConfig)}
    assert not set(ONLY) & (names | set(ALIASES) | set(SWITCH_ALIASES))
