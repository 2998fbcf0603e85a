"""`minillm experts`: prompts in, a heat map and files out."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_moe import make_moe

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("moe")
    make_moe(folder, vocab_size=258, eos_token_id=None)
    return str(folder)


def test_map_balance_and_files(minillm: Run, moe: str, tmp_path: Path) -> None:
    files = ["--export", str(tmp_path / "e.json"), "--svg", str(tmp_path / "e.svg")]
    told = ["--prompt", "abc", "--prompt", "de", "--max-tokens", "5", "--plain", "--set", "max_model_len=64"]
    done = minillm("experts", moe, *told, *files, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and max(map(len, done.stdout.splitlines())) <= 80 + len(str(tmp_path))
    assert "2 prompts of" in done.stdout and "10 tokens generated" in done.stdout
    for words in ("3 layers of 7 experts, 3 for each token", "evenness", "share of its layer", "e.json", "e.svg"):
        assert words in done.stdout
    content = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert set(content) == {"expert_stats", "layer_stats", "top_experts"}
    assert {len(layer) for layer in content["expert_stats"].values()} == {7}
    ET.parse(tmp_path / "e.svg")


def test_it_brings_prompts_of_its_own(minillm: Run, moe: str) -> None:
    done = minillm("experts", moe, "--max-tokens", "2", "--plain")
    assert done.returncode == 0, done.stderr
    assert "4 prompts of" in done.stdout


def test_a_dense_model_is_refused(minillm: Run, checkpoint: str) -> None:
    done = minillm("experts", checkpoint, "--prompt", "a")
    assert done.returncode == 2 and "LlamaForCausalLM has no mixture of experts" in done.stderr
