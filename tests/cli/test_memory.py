"""`minillm memory`: from a config alone, the numbers that the built model would have."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_moe import make_moe
from transformers import LlamaForCausalLM

from minillm.cli.options import parse_bytes
from minillm.config import EngineConfig
from minillm.model_config import ModelConfig
from minillm.worker.device import show_bytes

Run = Callable[..., Any]


def numbers(table: str) -> dict[str, str]:
    """What each row says: its first column to its last."""
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in table.splitlines() if "│" in line]
    return {row[0]: row[-1] for row in rows if row[0]}


def test_a_config_is_enough(minillm: Run, tiny: tuple[Path, LlamaForCausalLM], tmp_path: Path) -> None:
    folder, hf = tiny
    shutil.copy(folder / "config.json", tmp_path)
    arguments = ["--available", "100MiB", "--max-model-len", "500", "--page-size", "8", "--dtype", "bfloat16"]
    done = minillm("memory", str(tmp_path / "config.json"), *arguments)
    assert done.returncode == 0, done.stderr
    row = numbers(done.stdout)
    assert row["parameters"] == f"{hf.num_parameters():,}"
    assert row["weights"] == show_bytes(hf.num_parameters() * 2)
    kv = 2 * 3 * 2 * 16 * 2
    assert f"2 * L * Hkv * D * bytes = 2 * 3 * 2 * 16 * 2 = {kv:,} bytes" in done.stdout
    assert row["a page"] == show_bytes(8 * kv)
    assert row["memory"] == "100.0 MiB" and row["of it, to use"] == "90.0 MiB"
    pages, tokens = (int(row[name].replace(",", "")) for name in ("pages that fit", "tokens that fit"))
    assert tokens == pages * 8 and 0 < tokens * kv < 90 * 2**20
    assert row["longest requests"] == f"{pages // 63:,}", "500 tokens are 63 pages of 8"


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_a_mixture_of_experts(minillm: Run, tmp_path: Path, kind: str) -> None:
    """All experts are held, and a token meets some: counted in Hugging Face's model, tensor by tensor."""
    hf = make_moe(tmp_path, kind)
    done = minillm("memory", str(tmp_path), "--available", "100MiB", "--max-model-len", "250", "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    row, E, k = numbers(done.stdout), hf.config.num_local_experts, hf.config.num_experts_per_tok
    one = sum(p.numel() for name, p in hf.named_parameters() if ".experts." in name) // E
    assert row["parameters"] == f"{hf.num_parameters():,}"
    assert row["a token meets"] == f"{hf.num_parameters() - (E - k) * one:,}" and f"{k} of {E}" in done.stdout
    assert row["weights"] == show_bytes(hf.num_parameters() * 2)


def test_a_context_that_the_engine_would_refuse_is_refused_here_too(minillm: Run, checkpoint: str) -> None:
    done = minillm("memory", checkpoint, "--available", "24GiB", "--max-model-len", "5000000")
    assert done.returncode == 2 and "max_model_len is 5000000, but the model was made for at most" in done.stderr


def test_too_little_is_said_and_no_error(minillm: Run, checkpoint: str) -> None:
    done = minillm("memory", checkpoint, "--available", "1MiB")
    assert done.returncode == 0
    assert "It does not fit" in done.stdout and numbers(done.stdout)["pages that fit"] == "0"


def test_this_machine_is_the_default(minillm: Run, tiny: tuple[Path, LlamaForCausalLM]) -> None:
    done = minillm("memory", str(tiny[0]), "--max-model-len", "100")
    assert done.returncode == 0, done.stderr
    assert "free here, on " in done.stdout
    rows = numbers(done.stdout)
    if "pages it takes" in rows:  # on a CPU
        assert int(rows["pages it takes"].replace(",", "")) <= int(rows["pages that fit"].replace(",", ""))
        assert list(rows).index("pages it takes") < list(rows).index("pages that fit")


def test_what_the_engine_counts_is_the_same(checkpoint: str) -> None:
    from minillm.llm import LLM

    llm = LLM(checkpoint, max_model_len=500, page_size=8, max_cached_tokens=800)
    c = ModelConfig.from_folder(Path(checkpoint))
    numbers_of_a_token = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim
    assert llm.engine.memory.page_bytes == 8 * numbers_of_a_token * llm.engine.dtype.itemsize
    assert EngineConfig().gpu_memory_utilization == 0.9, "the command's default is written there and in __main__"


@pytest.mark.parametrize(
    "text, count",
    [
        ("24GiB", 24 * 2**30),
        ("24G", 24 * 2**30),
        ("80GB", 80 * 10**9),
        ("512 mib", 2**29),
        ("1.5KiB", 1536),
        ("77", 77),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "much", "-1GiB", "0", "1.2.3G", "5 pages", "GiB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="no amount of memory"):
        parse_bytes(text)
