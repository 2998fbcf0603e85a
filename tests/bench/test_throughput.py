"""`minillm bench throughput`: the work is what it says, and no test looks at a time."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tiny import make_llama

from minillm import LLM, SamplingParams
from minillm.bench.peers import check_peer, load_transformers, load_vllm
from minillm.bench.settings import engine_settings
from minillm.bench.shapes import SHAPES, model_settings
from minillm.bench.throughput import measure, measure_beside, spread
from minillm.bench.traffic import TRAFFIC, Traffic, traffic
from minillm.config import EngineConfig
from minillm.model_config import ModelConfig
from minillm.setup import Setup


def test_mixed256_is_the_benchmark_that_others_ran() -> None:
    work = traffic("mixed256")
    assert (len(work.prompts), work.num_prompt_tokens, work.num_generated) == (256, 142_827, 133_966)


@pytest.mark.parametrize("name", TRAFFIC)
def test_every_workload_is_the_same_each_time(name: str) -> None:
    assert traffic(name) == traffic(name)
    assert all(params.ignore_eos and params.max_tokens for params in traffic(name).params())


def test_tokens_looked_at_by_counting() -> None:
    work = Traffic("x", [[1] * 5, [1] * 2], [4, 1])
    # The first request's decode steps look at 6, 7 and 8 tokens; the second one's token comes from its prefill.
    assert work.tokens_looked_at == 6 + 7 + 8


def test_an_unknown_workload() -> None:
    with pytest.raises(ValueError, match="no workload 'mixed'; there are mixed256, single"):
        traffic("mixed")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_a_config_that_the_engine_serves(shape: str) -> None:
    with model_settings(shape) as settings:
        config = ModelConfig.from_folder(Path(settings["model"]))
    assert config.num_hidden_layers == SHAPES[shape]["num_hidden_layers"]
    assert not Path(settings["model"]).exists()


def test_random_weights_without_a_tokenizer(tmp_path: Path) -> None:
    make_llama(tmp_path)
    for file in (*tmp_path.glob("*.safetensors"), *tmp_path.glob("tokenizer*")):
        file.unlink()
    llms = [LLM(str(tmp_path), load_format="dummy", skip_tokenizer_init=True, num_pages=16) for _ in range(2)]
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    first, second = (llm.generate([[5, 6, 7]], params, use_tqdm=False)[0].outputs[0] for llm in llms)
    assert first.token_ids == second.token_ids and len(first.token_ids) == 8 and first.text == ""
    assert all(torch.isfinite(parameter).all() for parameter in llms[0].engine.model.parameters())
    for wish, says in (
        ({"prompt": "some text"}, "give token ids instead"),
        ({"prompt": [5], "stop": ["x"]}, "stop looks at the answer's text"),
        ({"prompt": [5], "bad_words": ["x"]}, "give token ids instead"),
    ):
        prompt = wish.pop("prompt")
        with pytest.raises(ValueError, match=says):
            llms[0].generate(prompt, SamplingParams(**wish), use_tqdm=False)


def test_what_is_measured(tmp_path: Path) -> None:
    make_llama(tmp_path)
    work = Traffic("x", [[5, 6, 7], [300] * 9], [4, 6])
    found = measure("tiny", work, {"model": str(tmp_path), "num_pages": 64}, rounds=1)
    assert (found.generated, found.prompt_tokens, found.steps) == (10, 12, 6)
    assert found.tokens_per_s == pytest.approx(10 / found.seconds)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_the_limit_is_what_copying_reaches(tmp_path: Path, tied: bool, pack: bool) -> None:
    """Weights once a step, without a table of which only rows are read; keys and values as counted."""
    sizes = {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
    }  # that packing need not pad
    model = make_llama(tmp_path, tie_word_embeddings=tied, **sizes)
    work = Traffic("x", [[5, 6, 7]], [4])
    found = measure("tiny", work, {"model": str(tmp_path), "num_pages": 64, "pack_weights": pack}, rounds=1)
    weights = (model.num_parameters() - (0 if tied else model.get_input_embeddings().weight.numel())) * 4
    keys_and_values = 2 * 3 * 2 * 16 * 4  # layers, heads, their size, float32
    assert found.gb_per_s * found.seconds * 1e9 == pytest.approx(4 * weights + (4 + 5 + 6) * keys_and_values)
    assert found.of_copy == found.gb_per_s / found.copy_gb_per_s
    assert found.limit_tokens_per_s * found.of_copy == pytest.approx(found.tokens_per_s)
    assert found.as_dict()["of_copy"] == found.of_copy and found.as_dict()["ratio"] is None


@pytest.mark.parametrize("random", [False, True])
def test_hugging_face_on_the_same_work(tmp_path: Path, random: bool) -> None:
    make_llama(tmp_path)
    settings = {"model": str(tmp_path), "num_pages": 64, "load_format": "dummy" if random else "auto"}
    work = Traffic("x", [[5, 6, 7], [300] * 9], [4, 6])
    found = measure_beside("tiny", work, settings, rounds=1, peer="hf")
    assert (found.peer.name, found.peer.version) == ("hf", transformers.__version__)
    assert found.peer.tokens_per_s * found.peer.seconds == pytest.approx(10)
    assert found.ratio == found.as_dict()["ratio"] == pytest.approx(found.tokens_per_s / found.peer.tokens_per_s)


def test_padding_changes_no_token_of_hugging_face(tmp_path: Path) -> None:
    """Each prompt alone, through its model's own forward pass, and all of them padded in one batch."""
    model = make_llama(tmp_path)
    prompts, lens = [[5, 6, 7], [9] * 11, [50]], [4, 2, 6]
    generate = load_transformers(tmp_path, torch.device("cpu"), torch.float32)
    made = generate(prompts, lens, 0)
    for prompt, n, tokens in zip(prompts, lens, made, strict=True):
        ids = list(prompt)
        for _ in range(n):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert tokens == ids[len(prompt) :]
    drawn = generate(prompts, lens, 5.0)
    assert [len(tokens) for tokens in drawn] == lens and drawn != made


def test_another_engine_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="--compare is 'sglang'; it must be one of hf, vllm"):
        check_peer("sglang")
    check_peer("hf")
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(ValueError, match=r"needs the package 'vllm', which is not installed .* --compare hf"):
            check_peer("vllm")


def test_vllm_is_given_what_we_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its interface as its documentation has it, for it is not installed where these tests run."""
    made, asked = {}, []

    class FakeLLM:
        def __init__(self, **settings: object) -> None:
            made.update(settings)

        def generate(self, prompts: list, params: list, use_tqdm: bool) -> list:
            asked.extend(zip(prompts, params, strict=True))
            ends = [SimpleNamespace(token_ids=[1] * one.max_tokens) for one in params]
            return [SimpleNamespace(outputs=[end]) for end in ends]

    there = SimpleNamespace(LLM=FakeLLM, SamplingParams=lambda **fields: SimpleNamespace(**fields))
    monkeypatch.setitem(sys.modules, "vllm", there)
    make_llama(tmp_path)
    settings: dict[str, Any] = {"dtype": "bfloat16", "load_format": "dummy", "skip_tokenizer_init": True}
    generate = load_vllm(Setup.of(EngineConfig(model=str(tmp_path), max_model_len=99, **settings)))
    assert [len(tokens) for tokens in generate([[5, 6], [7]], [3, 4], 0.6)] == [3, 4]
    assert (made["model"], made["dtype"], made["max_model_len"]) == (str(tmp_path), "bfloat16", 99)
    assert (made["load_format"], made["skip_tokenizer_init"]) == ("dummy", True)
    assert asked[0][0] == {"prompt_token_ids": [5, 6]} and asked[1][1].max_tokens == 4 and asked[1][1].ignore_eos


def test_settings(tmp_path: Path) -> None:
    make_llama(tmp_path)
    chosen, work = {"model": str(tmp_path)}, [Traffic("x", [[1] * 10], [20])]
    found = engine_settings({"dtype": "float32"}, {"prefix_cache": "none"}, chosen, work)
    assert found == {"dtype": "float32", "prefix_cache": "none", "max_model_len": 256, **chosen}
    found = engine_settings(
        {"enable_prefix_caching": True, "context_length": 30}, {"prefix_cache": "none"}, chosen, work
    )
    assert found == {"enable_prefix_caching": True, "context_length": 30, **chosen}, "others' names count too"
    for user, says in (
        ({"max_model_len": 29}, "'x' has a request of 30 tokens, .* is 29; give --set max_model_len=30"),
        ({"model": "y"}, "takes from --model"),
    ):
        with pytest.raises(ValueError, match=says):
            engine_settings(user, {}, chosen, work)
    with pytest.raises(ValueError, match=r"32,128 tokens, .* at most 256; choose another workload or model"):
        engine_settings({}, {}, chosen, [traffic("long1")])


def test_spread() -> None:
    assert spread([i / 1000 for i in range(100)]) == pytest.approx((50, 99))
    assert spread([]) == (0, 0)


def test_the_command(tmp_path: Path) -> None:
    make_llama(tmp_path)
    command = [sys.executable, "-m", "minillm", "bench", "throughput", "--model", str(tmp_path), "--rounds", "1"]
    done = subprocess.run([*command, "--set", "max_model_len=64"], capture_output=True, encoding="utf-8", timeout=250)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["results"][0]["traffic"] == "quick" and found["results"][0]["generated"] == 32
    assert found["settings"] == {"max_model_len": 64, "prefix_cache": "none"}
    wrong = subprocess.run([*command, "--workload", "none"], capture_output=True, encoding="utf-8", timeout=250)
    assert wrong.returncode == 2 and "no workload 'none'" in wrong.stderr
