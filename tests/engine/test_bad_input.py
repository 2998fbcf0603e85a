"""Input that cannot work: refused at once, in words that name what was given and what to do."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import Oracle, edit_json, make_llama
from workload import Job, assert_idle, make_engine, run_jobs

from minillm.config import EngineConfig
from minillm.engine.engine import Engine
from minillm.request import SamplingParams


@pytest.fixture(scope="module")
def engine(oracle: Oracle) -> Engine:
    return make_engine(oracle.folder, num_pages=4)


def refused(engine: Engine, prompt: Any, *says: str, params: SamplingParams | None = None) -> None:
    with pytest.raises(ValueError) as caught:
        engine.add_request(prompt, params)
    for words in says:
        assert words in str(caught.value)
    assert_idle(engine)


# --- prompts


@pytest.mark.parametrize("prompt", ["", [], (), {"prompt": ""}, {"prompt_token_ids": []}])
def test_an_empty_prompt(engine: Engine, prompt: Any) -> None:
    refused(engine, prompt, "the prompt is empty", "at least one token")


def test_a_prompt_that_fills_the_context_leaves_no_room_for_an_answer(engine: Engine) -> None:
    refused(engine, [5] * 256, "256 tokens", "max_model_len) is 256", "shorten the prompt or raise max_model_len")


def test_a_prompt_over_the_context_limit(engine: Engine) -> None:
    refused(engine, [5] * 9999, "9999 tokens", "256")


def test_a_prompt_over_a_limit_of_the_users_own(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder, max_model_len=20)
    refused(engine, [5] * 20, "20 tokens", "is 20")
    assert len(run_jobs(engine, [Job((5,) * 19, 8)]).tokens(0)) == 1


def test_a_request_that_can_never_fit_the_pages_is_refused_with_both_numbers(engine: Engine) -> None:
    params = SamplingParams(max_tokens=100)
    refused(engine, [5] * 10, "109 cached tokens", "7 pages of 16", "has 4", "lower max_tokens", params=params)
    engine.abort(engine.add_request([5] * 10, SamplingParams(max_tokens=55)).id)  # exactly the 64 slots


@pytest.mark.parametrize("token", [1.0, 2.5, "7", None])
def test_token_ids_that_are_no_whole_numbers(engine: Engine, token: Any) -> None:
    said = f"the prompt has {token!r} ({type(token).__name__}) among its token ids; they must be whole numbers"
    refused(engine, [5, token, 6], said)
    refused(engine, {"prompt_token_ids": [token]}, said)


@pytest.mark.parametrize("token", [258, 10**9, -1, True, False])
def test_token_ids_outside_the_vocabulary(engine: Engine, token: Any) -> None:
    refused(engine, [5, token, 6], f"token id {token!r} is not in the vocabulary", "0 to 257")
    refused(engine, {"prompt_token_ids": [token]}, f"token id {token!r}")


def test_the_first_and_the_last_token_of_the_vocabulary_are_fine(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder)
    assert run_jobs(engine, [Job((0, 257, 1), 3)]).tokens(0) == oracle.greedy([0, 257, 1], 3)


def test_unknown_keys_of_a_dict_prompt(engine: Engine) -> None:
    refused(engine, {"prompt": "a", "multi_modal_data": 1}, "unknown keys ['multi_modal_data']", "prompt_token_ids")


@pytest.mark.parametrize("prompt", [5, 2.5, None, {}, {"prompt": None}, {"prompt": 5}, {"prompt_token_ids": None},
                                    {"prompt_token_ids": 5}, b"bytes", {5, 6}])  # fmt: skip
def test_a_prompt_of_the_wrong_kind(engine: Engine, prompt: Any) -> None:
    refused(engine, prompt, "prompt", "text", "token ids")


# --- sampling parameters


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; it must be 0 (greedy) or above"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0}, "top_p is 0; it must be above 0 and at most 1"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_p": -1}, "top_p is -1"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"top_k": -2}, "top_k is -2; it must be a count of tokens, or 0 or -1 to keep all"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"top_k": float("nan")}, "top_k is nan"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1, or None for the context limit"),
        ({"max_tokens": -5}, "max_tokens is -5"),
        ({"max_tokens": 2.5}, "max_tokens is 2.5"),
        ({"seed": 1.5}, "seed is 1.5; it must be an integer or None"),
        ({"seed": float("inf")}, "seed is inf"),
        ({"seed": "abc"}, "seed is 'abc'"),
    ],
)
def test_sampling_parameters_out_of_range(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        SamplingParams(**settings)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0}, {"temperature": 1e-9}, {"top_p": 1}, {"top_p": 1e-9}, {"top_k": -1}, {"top_k": 0},
                 {"top_k": 10**9}, {"max_tokens": None}, {"max_tokens": 10**9}, {"seed": -1}],
)  # fmt: skip
def test_sampling_parameters_at_the_edges_work(oracle: Oracle, settings: dict[str, Any]) -> None:
    engine = make_engine(oracle.folder)
    engine.add_request([5] * 250, SamplingParams(**{"max_tokens": 2, **settings}))
    while engine.has_requests:
        engine.step()
    assert_idle(engine)


# --- settings of the engine


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"page_size": 0}, r"page_size is 0; it must be a whole number of at least 1: tokens a page"),
        ({"page_size": -16}, r"page_size is -16"),
        ({"page_size": 1.5}, r"page_size is 1.5"),
        ({"page_size": True}, r"page_size is True"),
        ({"page_size": "large"}, r"page_size is 'large'.*'max_model_len'"),
        ({"max_num_batched_tokens": 0}, r"max_num_batched_tokens is 0; it must be a whole number of at least 1"),
        ({"max_num_seqs": 0}, r"max_num_seqs is 0"),
        ({"num_pages": 0}, r"num_pages is 0"),
        ({"max_cached_tokens": -1}, r"max_cached_tokens is -1"),
        ({"kv_cache_memory_bytes": 0}, r"kv_cache_memory_bytes is 0"),
        ({"max_model_len": 0}, r"max_model_len is 0"),
        ({"long_prefill_token_threshold": -1}, r"long_prefill_token_threshold is -1; .* at least 0"),
        ({"gpu_memory_utilization": 0}, r"gpu_memory_utilization is 0; it is a share, above 0 and at most 1"),
        ({"gpu_memory_utilization": 2}, r"gpu_memory_utilization is 2"),
        ({"gpu_memory_utilization": float("nan")}, r"gpu_memory_utilization is nan"),
        ({"dtype": "int8"}, r"dtype is 'int8'; it must be one of auto, float32, bfloat16, float16"),
        ({"batching": "dynamic"}, r"batching is 'dynamic'; it must be one of continuous, static"),
        ({"attention_backend": "magic"}, r"attention_backend is 'magic'; it must be one of auto, naive, reference"),
        ({"kernels": "magic"}, r"kernels is 'magic'; it must be one of auto, torch, cpu"),
        ({"reuse_kv": False, "max_num_batched_tokens": 100, "max_model_len": 101},
         r"max_num_batched_tokens is 100, but with reuse_kv=False .* max_model_len=101 .*raise the one or lower"),
        ({"enable_chunked_prefill": False, "max_num_batched_tokens": 100, "max_model_len": 101},
         r"max_num_batched_tokens is 100, but with enable_chunked_prefill=False"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_before_anything_is_loaded(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EngineConfig.from_settings(model="/nowhere", **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_pages": 10**12},
         r"the KV cache asked for takes .* GiB, but of .* free memory .* may be used; weights take"),
        ({"kv_cache_memory_bytes": 2**60}, r"the KV cache asked for takes 1073741824.00 GiB, but .*; ask for less"),
        ({"max_cached_tokens": 10**15}, r"the KV cache asked for takes .*; ask for less"),
        ({"kv_cache_memory_bytes": 5}, r"takes 5 bytes, but one page takes 12288; ask for more"),
        ({"page_size": 10**12}, r"one request of max_model_len=256 tokens needs .* GiB of KV cache"),
        ({"gpu_memory_utilization": 1e-12}, r"the weights take .* KiB, but of .* smaller .*raise gpu_memory_util"),
        ({"max_num_batched_tokens": 10**12, "max_num_seqs": 10**9},
         r"the largest step .* GiB, .*lower max_model_len, max_num_batched_tokens or max_num_seqs"),
        ({"max_model_len": 257}, r"max_model_len is 257, but the model was made for at most 256 positions"),
        ({"reuse_kv": False, "max_num_batched_tokens": 255},
         r"max_num_batched_tokens is 255, .*max_model_len=256 tokens"),
        ({"device": "toaster"}, r"device is 'toaster'; it must be auto, cpu, cuda, or cuda:N"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_with_the_model_or_the_machine(
    oracle: Oracle, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Engine(EngineConfig.from_settings(model=str(oracle.folder), **settings))


def test_cuda_without_a_cuda_device_says_so(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device is 'cuda', but torch sees no CUDA device here; use device='cpu'"):
        make_engine(oracle.folder, device="cuda")


def test_more_seats_than_pages_cost_nothing(oracle: Oracle) -> None:
    """A running request holds a page at least, so seats beyond the pages are never made: this would need terabytes."""
    engine = make_engine(oracle.folder, max_num_seqs=10**12, num_pages=3)
    assert run_jobs(engine, [Job((5, 6), 4)] * 5).tokens(4) == oracle.greedy([5, 6], 4)
    assert_idle(engine)


def test_a_refused_engine_leaves_the_next_one_unharmed(oracle: Oracle) -> None:
    config = EngineConfig(model=str(oracle.folder), num_pages=10**12)
    with pytest.raises(ValueError):
        Engine(config)
    config = replace(config, num_pages=16)
    assert run_jobs(Engine(config), [Job((5, 6), 4)]).tokens(0) == oracle.greedy([5, 6], 4)


def test_one_config_serves_two_engines(oracle: Oracle) -> None:
    config = EngineConfig(model=str(oracle.folder), page_size="max_model_len", num_pages=2)
    for _ in range(2):
        engine = Engine(config)
        assert engine.pool.page_size == 256
        assert run_jobs(engine, [Job((5, 6), 4)]).tokens(0) == oracle.greedy([5, 6], 4)


# --- models that are not there or not known


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "no-such-model", "~/no-such-model"])
def test_a_model_that_does_not_exist(name: str) -> None:
    with pytest.raises(
        FileNotFoundError, match=rf"model '{re.escape(name)}': no such folder.*bundled models.*config.json"
    ):
        Engine(EngineConfig(model=name))


def test_a_hub_name_without_a_network() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"model 'nobody/nothing': .*the Hugging Face Hub did not give it.*local folder"
    ):
        Engine(EngineConfig(model="nobody/nothing"))


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(str(tmp_path))} holds no config.json"):
        make_engine(tmp_path)


def test_a_checkpoint_without_a_tokenizer(tmp_path: Path) -> None:
    make_llama(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"holds no tokenizer.json, and transformers finds no other .*; convert"
    ):
        make_engine(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["GPT2LMHeadModel"]},
         r"architecture 'GPT2LMHeadModel' is not supported; supported: .*LlamaForCausalLM"),
        ({"architectures": None}, r"architecture 'unknown' is not supported"),
        ({"hidden_act": "swish2"}, r"hidden_act is 'swish2'; supported: gelu, gelu_pytorch_tanh, relu, relu2, silu"),
        ({"rope_parameters": {"rope_type": "spiral"}},
         r"RoPE type 'spiral' is unknown; supported: default, linear"),
        ({"rope_parameters": {"rope_type": "linear"}}, r"RoPE type 'linear' needs 'factor'"),
        ({"hidden_size": None}, r"config.json lacks hidden_size"),
        ({"vocab_size": None, "num_hidden_layers": None}, r"config.json lacks vocab_size, num_hidden_layers"),
    ],
)  # fmt: skip
def test_a_config_that_asks_for_what_is_not_known(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    make_llama(tmp_path)
    edit_json(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=says):
        make_engine(tmp_path)


def test_kernels_that_fail_on_a_card_are_replaced_and_the_choices_say_why(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler that cannot do this card: said as a warning, and wherever the engine's choices are shown."""
    import torch

    from minillm.kernels.triton.load import failed
    from minillm.worker.platform import choose_kernels

    def old_card(device: torch.device, dtype: torch.dtype) -> tuple[None, str]:
        return None, failed("kernels", RuntimeError("ptxas fatal: sm_37 is not supported\nand more"))

    monkeypatch.setattr("minillm.kernels.triton.load.load", old_card)
    with pytest.warns(UserWarning, match=r"failed on this machine: .*sm_37.*; torch does their work, which is slower"):
        kernels = choose_kernels("auto", torch.device("cuda"), torch.float16)
    assert kernels.name == "torch" and "sm_37" in kernels.reason
    engine = make_engine(oracle.folder)
    assert engine.choices["kernels"].startswith(engine.worker.platform.kernels.name + ": ")
    assert engine.choices["recorded steps"].startswith("none: on a cpu little is saved") or engine.runner.graphs
    assert "num_pages=64" in engine.choices["memory"]
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match=r"kernels is 'triton', but .*sm_37.*kernels='auto'"),
    ):
        choose_kernels("triton", torch.device("cuda"), torch.float16)


@pytest.mark.gpu
def test_a_cuda_device_that_there_is_not(oracle: Oracle) -> None:
    with pytest.raises(ValueError, match=r"device is 'cuda:99', but torch sees \d+ CUDA devices here, cuda:0 to cuda:"):
        make_engine(oracle.folder, device="cuda:99")


@pytest.mark.gpu
def test_a_head_that_the_gpus_kernels_cannot_take(tmp_path: Path) -> None:
    """Asked for by name it is refused; otherwise the reference takes over, and the choices say why."""
    make_llama(tmp_path, head_dim=288)
    with pytest.raises(ValueError, match=r"attention_backend is 'triton', but .* heads have 288 numbers.*'reference'"):
        make_engine(tmp_path, device="cuda", attention_backend="triton")
    engine = make_engine(tmp_path, device="cuda")
    assert engine.choices["attention_backend"].startswith("reference: the model's heads have 288 numbers")
    assert engine.choices["recorded steps"].startswith("none: attention_backend 'reference'")
    run_jobs(engine, [Job((5, 6, 7), 5)])


@pytest.mark.gpu
@pytest.mark.parametrize("page_size", [1, 3, 48, 256])
def test_pages_of_any_size_on_a_gpu(oracle: Oracle, page_size: int) -> None:
    plain = make_engine(oracle.folder, device="cpu", dtype="float32")
    engine = make_engine(oracle.folder, device="cuda", dtype="float32", page_size=page_size, num_pages=300)
    job = Job(tuple(range(10, 70)), 20)
    assert run_jobs(engine, [job]).tokens(0) == run_jobs(plain, [job]).tokens(0)
