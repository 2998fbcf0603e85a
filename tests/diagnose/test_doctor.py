"""The doctor: a healthy checkpoint has nothing, and each way to break one is found by its check, and by no other."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, TEXT_VOCAB, Oracle, edit_json, make_llama, make_model, write_v4_config
from torch import Tensor

from minillm.diagnose import numbers, running_checks
from minillm.diagnose.doctor import CHECKS, examine, is_wrong
from minillm.diagnose.findings import Finding
from minillm.kernels.torch.kernels import TorchKernels

Q1 = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(oracle: Oracle, tmp_path: Path) -> Path:
    """A healthy checkpoint to break, with a pad token of its own."""
    shutil.copytree(oracle.folder, tmp_path / "model")
    edit_json(tmp_path / "model" / "config.json", pad_token_id=TEXT_VOCAB - 1)
    return tmp_path / "model"


def found(folder: Path, load: bool = False) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(folder, load)}


def change(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    """Edit the tensors of a checkpoint of one file."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def only(folder: Path, name: str, level: str, *words: str) -> Finding:
    """Exactly this check complains, with these words, and says what to do."""
    findings = found(folder)
    assert {n: f.seen for n, f in findings.items() if f.level != "ok" and n != name} == {}
    assert findings[name].level == level, findings[name]
    for word in words:
        assert word in findings[name].seen, findings[name].seen
    assert findings[name].todo
    return findings[name]


def test_a_healthy_checkpoint(folder: Path) -> None:
    findings = examine(folder)
    assert [finding.name for finding in findings] == [name for name, _ in CHECKS]
    assert [(f.name, f.seen) for f in findings if f.level != "ok"] == []
    assert not is_wrong(findings)


def test_transformers_4_too(folder: Path) -> None:
    write_v4_config(folder)
    assert {f.level for f in examine(folder)} == {"ok"}


def test_the_bundled_model() -> None:
    from minillm.hub import resolve_model

    assert {f.level for f in examine(resolve_model("nano-llama"), load=True)} == {"ok"}


# ------------------------------------------------------------------------------------------------ numbers


def test_nan_and_infinity_are_named_and_counted(folder: Path) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        tensors[Q1][3, 5] = tensors[Q1][4, 0] = float("nan")
        tensors["model.norm.weight"][7] = float("-inf")

    change(folder, edit)
    only(
        folder, "NaN, infinity", "wrong", f"{Q1} (2 NaN, 0 infinite of 4,608)", "norm.weight (0 NaN, 1 infinite of 48)"
    )


def test_a_tensor_of_zeros(folder: Path) -> None:
    change(folder, lambda tensors: tensors[Q1].zero_())
    only(folder, "zeros", "warn", Q1)


def test_zero_biases_are_fine(tmp_path: Path) -> None:
    make_llama(tmp_path, vocab_size=TEXT_VOCAB, attention_bias=True)
    change(tmp_path, lambda tensors: [t.zero_() for name, t in tensors.items() if name.endswith("bias")])
    assert found(tmp_path)["zeros"].level == "ok"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8])
def test_looking_at_any_dtype_a_piece_at_a_time(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "PIECE", 7)
    values = torch.zeros(5, 6)
    assert numbers.look(values.to(dtype)) == numbers.Numbers(30, 0, 0, True)
    values[4, 5] = 1
    assert numbers.look(values.to(dtype)) == numbers.Numbers(30, 0, 0, False)
    if dtype.is_floating_point:
        values[0, 0] = float("nan")
        assert numbers.look(values.to(dtype)).nans == 1


# ------------------------------------------------------------------------------------------------ tensors and config


def test_a_tensor_of_another_dtype(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({Q1: tensors[Q1].bfloat16()}))
    only(folder, "dtypes", "warn", f"{Q1} (bfloat16)", "tensors are float32")


def test_another_dtype_than_the_config_says(folder: Path) -> None:
    edit_json(folder / "config.json", dtype="bfloat16")
    only(folder, "dtypes", "warn", "are float32, the config says bfloat16")


def test_tensors_missing_left_over_and_of_the_wrong_shape(folder: Path) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        del tensors["model.layers.2.mlp.up_proj.weight"]
        tensors["model.extra"] = torch.ones(2)
        tensors[Q1] = torch.ones(96, 47)

    change(folder, edit)
    seen = "1 missing: model.layers.2.mlp.up_proj.weight", "1 left over: model.extra"
    only(folder, "tensors", "wrong", *seen, f"{Q1} is [96, 47], the config asks for [96, 48]")


def test_tied_says_the_config_but_the_head_is_another(folder: Path) -> None:
    edit_json(folder / "config.json", tie_word_embeddings=True)
    only(folder, "tied weights", "wrong", "lm_head.weight is there and is not the embedding")
    change(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    assert found(folder)["tied weights"].level == "ok"


def test_untied_says_the_config_but_there_is_no_head(folder: Path) -> None:
    change(folder, lambda tensors: tensors.pop("lm_head.weight"))
    findings = found(folder)
    assert findings["tied weights"].level == "wrong" and "no lm_head.weight" in findings["tied weights"].seen
    assert findings["tensors"].level == "wrong", "it is missing, after all"


def test_a_quantised_checkpoint(folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    only(folder, "quantisation", "wrong", "'gptq'")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_is_healthy_and_one_tensor_less_is_missed(kind: str, tmp_path: Path) -> None:
    """Whatever names, fused tensors and ropes it has."""
    make_model(tmp_path, kind, vocab_size=TEXT_VOCAB)
    findings = found(tmp_path, load=True)
    assert {name: f.seen for name, f in findings.items() if f.level in ("wrong", "skipped")} == {}
    assert not any("could not be checked" in f.seen for f in findings.values())
    said = findings["rope"].seen
    assert said.startswith("none") if kind == "opt" else said.startswith("default, theta "), said
    assert ("layers with a window" in said) == (kind == "gemma3_text")
    name = sorted(load_file(tmp_path / "model.safetensors"))[-2]
    change(tmp_path, lambda tensors: tensors.pop(name))
    assert found(tmp_path)["tensors"].seen == f"1 missing: {name}"


def test_each_of_two_ropes_and_a_part_of_a_head(tmp_path: Path) -> None:
    ropes = {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "spiral", "rope_theta": 1e4},
    }
    make_model(tmp_path, "gemma3_text", vocab_size=TEXT_VOCAB)
    edit_json(tmp_path / "config.json", rope_parameters=ropes)
    assert "'spiral' is unknown" in found(tmp_path)["rope"].seen
    phi = tmp_path / "phi"
    phi.mkdir()
    rope = {"rope_type": "longrope", "rope_theta": 1e3, "short_factor": [1.0, 1.3], "long_factor": [1.0, 2.0]}
    part = {"rope_parameters": {**rope, "partial_rotary_factor": 0.5}, "original_max_position_embeddings": 128}
    make_model(phi, "phi3", vocab_size=TEXT_VOCAB, **part)
    assert found(phi)["rope"].seen == "longrope, theta 1000; 4 of a head's 8 numbers are turned"


def test_rope(folder: Path) -> None:
    edit_json(folder / "config.json", rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0})
    assert "low_freq_factor" in found(folder)["rope"].seen
    edit_json(folder / "config.json", rope_parameters={"rope_type": "spiral", "rope_theta": 1e4})
    findings = found(folder)
    assert "'spiral' is unknown" in findings["rope"].seen and findings["architecture"].level == "wrong"
    edit_json(folder / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 1e4}, rope_theta=5e5)
    only(folder, "rope", "warn", "rope_theta is 500000.0, but rope_parameters has 10000.0")


def test_an_unknown_architecture(folder: Path) -> None:
    edit_json(folder / "config.json", architectures=["RwkvForCausalLM"])
    findings = found(folder)
    assert "'RwkvForCausalLM' is not supported" in findings["architecture"].seen
    assert findings["tensors"].level == "skipped" and findings["NaN, infinity"].level == "ok"


def test_a_tokenizer_that_promises_a_longer_context(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", model_max_length=4096)
    only(folder, "context", "warn", "4,096", "256 positions")
    edit_json(folder / "tokenizer_config.json", model_max_length=10**30)
    assert found(folder)["context"].level == "ok", "that is transformers' word for: not set"


def test_too_large_for_this_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minillm.diagnose.config_checks.free_bytes", lambda device: 1000)
    only(folder, "device", "warn", "but only 1.0 KiB are free")


# ------------------------------------------------------------------------------------------------ tokens


def test_pad_is_the_end_token(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", pad_token="</s>")
    only(folder, "padding", "warn", "pad is 1 ('</s>'), which also ends answers")


def test_no_pad_token(folder: Path) -> None:
    edit_json(folder / "config.json", pad_token_id=None)
    only(folder, "padding", "warn", "no pad token")


def test_no_begin_and_no_end_token(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", bos_token=None)
    edit_json(folder / "config.json", bos_token_id=None)
    only(folder, "BOS and EOS", "warn", "no beginning-of-sequence token")
    edit_json(folder / "tokenizer_config.json", eos_token=None)
    for name in ("config.json", "generation_config.json"):
        edit_json(folder / name, eos_token_id=None)
    only(folder, "BOS and EOS", "warn", "no end-of-sequence token")


def test_end_tokens_that_disagree(folder: Path) -> None:
    edit_json(folder / "generation_config.json", eos_token_id=[40])
    only(folder, "end tokens", "warn", "generation_config [40], config [1], tokenizer [1]", "1 ('</s>') does not")
    edit_json(folder / "generation_config.json", eos_token_id=[1, 999])
    only(folder, "end tokens", "wrong", "999 is no token")


def test_more_tokens_than_rows(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    new = {"id": TEXT_VOCAB, "content": "<new>", "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False, "special": True}  # fmt: skip
    content["added_tokens"].append(new)
    path.write_text(json.dumps(content), encoding="utf-8")
    only(folder, "vocabulary", "wrong", "the tokenizer makes 259 tokens, the embedding has 258 rows")


def test_a_tokenizer_that_loses_text(folder: Path) -> None:
    path = folder / "tokenizer.json"
    edit_json(path, normalizer={"type": "Lowercase"})
    only(folder, "round trip", "warn", "'Hello, world!' came back as 'hello, world!'")


def test_chat_templates(folder: Path) -> None:
    config = folder / "tokenizer_config.json"
    edit_json(config, chat_template=None)
    only(folder, "chat template", "warn", "none")
    edit_json(config, chat_template="{% for m in messages %}")
    only(folder, "chat template", "wrong", "it is no template")
    edit_json(config, chat_template="{{ messages[0]['content']['text'] | upper }}{{ nothing.at.all }}")
    only(folder, "chat template", "wrong", "does not render a question: UndefinedError")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages }}"
    edit_json(config, chat_template=refusing)
    assert "refuses system messages (TemplateError: no system)" in found(folder)["chat template"].seen


# ------------------------------------------------------------------------------------------------ broken files


@pytest.mark.parametrize("text", ["", "{", "[]", '{"vocab_size": "many"}', '{"hidden_size": 48}', "\udce4"])
def test_a_broken_config_is_a_finding(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    findings = found(folder)
    assert findings["config.json"].level == "wrong"
    assert findings["tensors"].level == "skipped" and "not checked: " in findings["tensors"].seen
    assert all(findings[name].level == "ok" for name in ("weight files", "NaN, infinity", "round trip"))


@pytest.mark.parametrize("keep", [0, 5, 100, -100])
def test_a_file_cut_short_is_a_finding(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    findings = found(folder)
    assert findings["weight files"].level == "wrong" and "model.safetensors" in findings["weight files"].seen
    assert findings["NaN, infinity"].level == "skipped" and findings["chat template"].level == "ok"


def test_one_shard_of_several_is_missing_and_one_is_damaged(tmp_path: Path) -> None:
    make_llama(tmp_path, vocab_size=TEXT_VOCAB, max_shard_size="60KB")
    first, second, *_ = sorted(tmp_path.glob("*.safetensors"))
    second.write_bytes(b"nothing of the kind")
    findings = found(tmp_path)
    assert second.name in findings["weight files"].seen and "missing" in findings["tensors"].seen
    assert findings["NaN, infinity"].level == "ok", "of those that can be read"
    first.unlink()
    assert f"names {first.name}" in found(tmp_path)["weight files"].seen


def test_other_formats_and_no_tokenizer(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    (folder / "generation_config.json").write_text("no", encoding="utf-8")
    findings = found(folder)
    assert "holds no *.safetensors" in findings["weight files"].seen
    assert findings["tokenizer"].level == "wrong" and "convert" in findings["tokenizer"].todo
    assert "generation_config.json" in findings["other JSON"].seen
    assert findings["rope"].level == "ok"


def test_an_empty_folder(tmp_path: Path) -> None:
    findings = examine(tmp_path, load=True)
    assert is_wrong(findings) and {f.level for f in findings} == {"wrong", "skipped", "ok"}
    assert findings[-1].name == "loading" and "config.json" in findings[-1].seen


def test_a_check_that_nobody_foresaw_failing(folder: Path) -> None:
    edit_json(folder / "generation_config.json", eos_token_id={"a": 1})
    finding = found(folder)["end tokens"]
    assert finding.level == "warn" and "could not be checked" in finding.seen


# ------------------------------------------------------------------------------------------------ the loaded model


def test_loaded_and_healthy(folder: Path) -> None:
    findings = found(folder, load=True)
    assert {findings[name].level for name, _ in running_checks.CHECKS} == {"ok"}


def test_nan_on_the_way(folder: Path) -> None:
    change(folder, lambda tensors: tensors["model.layers.1.mlp.down_proj.weight"].fill_(float("nan")))
    assert "first at layer 1, mlp, position 0" in found(folder, load=True)["values"].seen


def test_a_parameter_that_is_elsewhere(folder: Path) -> None:
    patient = running_checks.Patient(folder)
    norm = patient.engine.model.model.norm  # type: ignore[union-attr]
    norm.weight = torch.nn.Parameter(norm.weight.double(), requires_grad=False)  # type: ignore[union-attr]
    assert "model.norm.weight (cpu float64)" in running_checks.placed(patient).seen
    norm.weight = torch.nn.Parameter(norm.weight.to("meta"), requires_grad=False)  # type: ignore[union-attr]
    finding = running_checks.placed(patient)
    assert finding.level == "wrong" and "model.norm.weight" in finding.seen


def test_a_mask_that_lets_tokens_see_ahead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minillm.attention import gather

    real = gather.scaled_dot_product_attention
    monkeypatch.setattr(
        gather, "scaled_dot_product_attention", lambda *args, is_causal=False, **options: real(*args, **options)
    )
    findings = found(folder, load=True)
    assert findings["causal mask"].level == "wrong"
    assert findings["causal mask"].seen == "layer 0, self_attn.o_proj input: position 0 sees a later token"


def test_requests_that_see_each_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token is stored in its neighbour's slot: what pages are for is gone."""
    real = TorchKernels.rotate_and_store

    def wrong(self: TorchKernels, qkv: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor, *n: int) -> None:
        real(self, qkv, cos, sin, cache, slots // 32 * 16 + slots % 16, *n)

    monkeypatch.setattr(TorchKernels, "rotate_and_store", wrong)
    monkeypatch.setattr("minillm.kernels.cpu.kernels.CpuKernels.rotate_and_store", wrong)
    patient = running_checks.Patient(folder)
    assert running_checks.apart(patient).level == "wrong"


def test_the_page_shows_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text(encoding="utf-8")
    for name, _ in CHECKS:
        assert any(line.startswith(f"{name}  ") for line in page.splitlines()), f"docs/diagnose.md lacks {name}"
