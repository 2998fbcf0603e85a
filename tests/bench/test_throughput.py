"""`minillm bench throughput`: the work is what it says, and no test looks at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import make_llama

from minillm import LLM, SamplingParams
from minillm.bench.shapes import SHAPES, model_settings
from minillm.bench.throughput import measure, spread
from minillm.bench.traffic import TRAFFIC, Traffic, traffic
from minillm.config import ModelConfig


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
    wrong = subprocess.run([*command, "--workload", "none"], capture_output=True, encoding="utf-8", timeout=250)
    assert wrong.returncode == 2 and "no workload 'none'" in wrong.stderr
