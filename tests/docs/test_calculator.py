"""The memory calculator in a browser, beside the engine's own functions and the command."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from docs.browser import Browser

from minillm.cli.memory import longest, met_by_a_token, verdict
from minillm.config import EngineConfig
from minillm.kvcache.storage import KVSpec
from minillm.layers.build import LayerBuild
from minillm.model_config import ModelConfig
from minillm.models.weights import build_model
from minillm.setup import Setup
from minillm.worker.device import DeviceMemory, show_bytes
from minillm.worker.memory import most_that_fits

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "js" / "calculator.js"
ASSETS = Path(__file__).resolve().parents[2] / "minillm" / "assets"

CASES = [
    {"preset": "nano-llama (bundled)", "memory": 1},
    {"preset": "nano-llama (bundled)", "memory": 0.01, "dtype": "float32"},
    {"preset": "nano-llama (bundled)", "memory": 2.5, "dtype": "float32", "contiguous": True},
    {"preset": "SmolLM2-135M", "memory": 8, "page_size": 1, "max_num_seqs": 7},
    {"preset": "TinyLlama-1.1B", "memory": 6.3, "gpu_memory_utilization": 0.85, "page_size": 64},
    {"preset": "Llama-3.2-1B", "memory": 24, "max_model_len": 8192},
    {"preset": "Llama-3.2-3B", "memory": 10, "max_num_batched_tokens": 513},
    {"preset": "Llama-2-7B", "memory": 16, "page_size": 256, "dtype": "float16"},
    {"preset": "Llama-3.1-8B", "memory": 24},
    {"preset": "Llama-3.1-8B", "memory": 80, "gpu_memory_utilization": 0.9, "max_num_seqs": 4096},
    {"preset": "Llama-3.1-70B", "memory": 141, "gpu_memory_utilization": 1},
    {"preset": "nano-moe (bundled)", "memory": 1},
    {
        "preset": "nano-moe (bundled)",
        "memory": 0.5,
        "dtype": "float32",
        "max_num_batched_tokens": 64,
        "num_experts": 33,
    },
    {"preset": "Mixtral-8x7B", "memory": 141, "max_model_len": 8192},
    {"preset": "Qwen3-30B-A3B", "memory": 80, "max_num_batched_tokens": 8192},
    {
        "preset": "Qwen3-30B-A3B",
        "memory": 80,
        "num_experts": 6,
        "num_experts_per_tok": 5,
        "moe_intermediate_size": 2048,
    },
    {"preset": "Llama-3.1-8B", "memory": 48, "attention_bias": "all", "mlp_bias": True, "head_dim": 96},
]

SET = """
((given) => {
  const form = document.getElementById('calculator');
  for (const [name, value] of Object.entries(given)) {
    const field = form.elements[name];
    if (field.type === 'checkbox') field.checked = value; else field.value = value;
    field.dispatchEvent(new Event('input', {bubbles: true}));
  }
})(%s)"""

READ = """
((column) => ({
  rows: column(1),
  how: column(2),
  verdict: document.querySelector('#answer .verdict')?.textContent ?? null,
  wrong: [...document.querySelectorAll('#answer .wrong li')].map((item) => item.textContent),
  command: document.querySelector('#answer .command')?.textContent ?? null,
  fields: Object.fromEntries([...document.getElementById('calculator').elements].filter((f) => f.name)
    .map((f) => [f.name, f.type === 'checkbox' ? f.checked : f.value])),
}))((number) => Object.fromEntries([...document.querySelectorAll('#answer tr')]
  .map((row) => [row.dataset.row, row.children[number].textContent])))"""


@pytest.fixture
def form(browser: Browser, address: str) -> Browser:
    browser.look(1280)
    browser.open(f"{address}/memory.html")
    return browser


def fill(form: Browser, **given: Any) -> dict[str, Any]:
    form.evaluate(SET % json.dumps(given))
    return form.evaluate(READ)


def as_config(fields: dict[str, Any]) -> ModelConfig:
    """The config.json of the shape that stands in the form."""
    whole = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
             "head_dim", "vocab_size")  # fmt: skip
    flags = ("tie_word_embeddings", "mlp_bias")
    raw = {**{name: int(fields[name]) for name in whole}, **{name: fields[name] for name in flags}}
    raw |= {"architectures": ["LlamaForCausalLM"], "attention_bias": fields["attention_bias"] == "all"}
    if int(fields["num_experts"]) > 1:
        raw |= {name: int(fields[name]) for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size")}
        raw["architectures"] = ["Qwen3MoeForCausalLM" if fields["qk_norm"] else "MixtralForCausalLM"]
    return ModelConfig.from_dict({**raw, "max_position_embeddings": 10**9})


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['preset'].split()[0]}-{case['memory']}")
def test_it_agrees_with_the_engine(form: Browser, case: dict[str, Any]) -> None:
    shown = fill(form, **case)
    assert shown["wrong"] == []
    fields = shown["fields"]
    whole = ("max_model_len", "max_num_batched_tokens", "max_num_seqs")
    config = EngineConfig(
        page_size="max_model_len" if fields["contiguous"] else int(fields["page_size"]),
        gpu_memory_utilization=float(fields["gpu_memory_utilization"]),
        **{name: int(fields[name]) for name in whole},
    )
    model_config, dtype = as_config(fields), getattr(torch, fields["dtype"])
    model = build_model(model_config, LayerBuild(dtype))
    size = int(float(fields["memory"]) * 2**30)
    setup = replace(Setup.of(config, model_config, folder=ASSETS), dtype=dtype)
    plan = most_that_fits(setup, model, DeviceMemory(torch.device("cuda"), size, size))
    said = met_by_a_token(model, sum(p.numel() for p in model.parameters()))
    met = {"met": said[0][-1]} if said else {}
    assert shown["rows"] | {"usual": ""} == {
        **met,
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "weights": show_bytes(plan.weights),
        "kv": show_bytes(KVSpec.of(model_config, model_config.num_key_value_heads, dtype).bytes_per_token),
        "page": show_bytes(plan.page_bytes),
        "activations": show_bytes(plan.activations),
        "limit": show_bytes(plan.limit),
        "left": show_bytes(plan.left),
        "pages": f"{plan.num_pages:,}",
        "tokens": f"{plan.cached_tokens:,}",
        "longest": f"{longest(setup, plan):,}",
        "usual": "",
    }
    assert f"= {plan.page_bytes:,} bytes" in shown["how"]["page"]
    assert shown["verdict"].split(".")[0] == verdict(setup, plan, cpu=False).split(".")[0] or plan.left > 0
    assert (plan.left < 0) == shown["verdict"].startswith("It does not fit")


@pytest.mark.parametrize("preset", ["nano-llama (bundled)", "nano-moe (bundled)"])
def test_its_command_says_the_same(form: Browser, preset: str) -> None:
    from typer.testing import CliRunner

    from minillm.__main__ import app

    shown = fill(form, preset=preset, memory=0.5, max_model_len=777, page_size=24, max_num_seqs=9)
    words = shown["command"].split()
    assert words[:3] == ["python", "-m", "minillm"]
    done = CliRunner().invoke(app, words[3:], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    table = [[cell.strip() for cell in re.split("[│┃|]", line)[1:-1]] for line in done.output.splitlines()]
    said = {row[0]: row[-1] for row in table if row and row[0]}
    names = {"parameters": "parameters", "weights": "weights", "kv": "KV of a token", "page": "a page"}
    names |= {"activations": "activations", "limit": "of it, to use", "left": "left for KV"}
    names |= {"met": "a token meets"} if "met" in shown["rows"] else {}
    names |= {"pages": "pages that fit", "tokens": "tokens that fit", "longest": "longest requests"}
    assert {key: said[name] for key, name in names.items()} == {key: shown["rows"][key] for key in names}


@pytest.mark.parametrize("name", ["nano-llama", "nano-moe"])
def test_the_bundled_models_shape_is_its_configs(form: Browser, name: str) -> None:
    shown = fill(form, preset=f"{name} (bundled)")
    fields, config = shown["fields"], ModelConfig.from_folder(ASSETS / name)
    for field in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
                  "head_dim", "vocab_size"):  # fmt: skip
        assert int(fields[field]) == getattr(config, field), field
    assert int(fields["max_model_len"]) == config.max_position_embeddings
    assert fields["tie_word_embeddings"] == config.tie_word_embeddings
    for field in ("num_experts", "num_experts_per_tok", "moe_intermediate_size"):
        assert int(fields[field]) == config.raw.get(field, int(fields[field])), field
    measured = json.loads((ASSETS / name / "evaluation.json").read_text(encoding="utf-8"))
    assert shown["rows"]["parameters"] == f"{measured['parameters']:,}"
    met = measured.get("active_parameters")
    assert shown["rows"].get("met") == (f"{met:,}" if met else None)


@pytest.mark.parametrize(
    "preset, count",
    [("Qwen2.5-0.5B", 494_032_768), ("Qwen3-0.6B", 596_049_920), ("Llama-3.2-1B", 1_235_814_400),
     ("Llama-3.1-8B", 8_030_261_248), ("Qwen3-8B", 8_190_735_360), ("SmolLM2-135M", 134_515_008),
     ("TinyLlama-1.1B", 1_100_048_384), ("Llama-2-7B", 6_738_415_616), ("Llama-3.1-70B", 70_553_706_496),
     ("Mixtral-8x7B", 46_702_792_704), ("Qwen3-30B-A3B", 30_532_122_624)],
)  # fmt: skip
def test_presets_have_as_many_parameters_as_published(form: Browser, preset: str, count: int) -> None:
    assert fill(form, preset=preset)["rows"]["parameters"] == f"{count:,}"


@pytest.mark.parametrize("preset, billions", [("Mixtral-8x7B", 12.9), ("Qwen3-30B-A3B", 3.3)])
def test_a_token_meets_as_many_as_published(form: Browser, preset: str, billions: float) -> None:
    met = int(fill(form, preset=preset)["rows"]["met"].replace(",", ""))
    assert abs(met / 1e9 - billions) < 0.06


def test_a_smaller_kv_cache_holds_more(form: Browser) -> None:
    full = fill(form, preset="Llama-3.2-1B", memory=24)
    half = fill(form, kv_dtype="1")
    assert half["rows"]["kv"] == "16.0 KiB" and full["rows"]["kv"] == "32.0 KiB"
    assert half["rows"]["weights"] == full["rows"]["weights"]
    assert half["command"] is None, "the engine has no such switch yet, so no command says this"


@pytest.mark.parametrize(
    "given, said",
    [
        ({"memory": ""}, "Memory, GiB: a size above 0"),
        ({"memory": "-4"}, "Memory, GiB"),
        ({"memory": "much"}, "Memory, GiB"),
        ({"page_size": "0"}, "Tokens a page: a whole number"),
        ({"page_size": "1.5"}, "Tokens a page: a whole number"),
        ({"gpu_memory_utilization": "1.1"}, "Share to use: a share"),
        ({"num_key_value_heads": "5"}, "32 query heads cannot share 5 key/value heads evenly"),
        ({"head_dim": "63"}, "must be even"),
        ({"num_experts_per_tok": "3", "num_experts": "2"}, "a token cannot have 3 of 2 experts"),
    ],
)
def test_what_cannot_be_is_said(form: Browser, given: dict[str, str], said: str) -> None:
    shown = fill(form, preset="Llama-3.2-1B", **given)
    assert any(said in text for text in shown["wrong"]), shown
    assert shown["rows"] == {}


def test_no_usual_request_is_longer_than_the_limit(form: Browser) -> None:
    shown = fill(form, preset="nano-llama (bundled)", usual=5000)
    assert shown["rows"]["usual"] == shown["rows"]["longest"] and "of 2,048 tokens" in shown["how"]["usual"]


def test_exact_halves_round_as_in_python(form: Browser) -> None:
    counts = [
        1280,
        1536 + 128,
        1310720,
        1363149,
        2**27 + 2**27 // 16,
        2**30 * 5 // 8,
        1024,
        0,
        -1280,
        2**31 + 2**22 * 5,
    ]
    assert form.evaluate(f"{counts}.map(showBytes)") == [show_bytes(count) for count in counts]


def test_it_needs_nothing_from_elsewhere() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert not re.search(r"https?://|fetch\(|import\s|XMLHttpRequest|innerHTML", text)
