"""Checkpoints with something wrong with them: named, with both sides of what does not fit."""

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from tiny import edit_json, hf_greedy, make_llama
from torch import Tensor
from workload import Job, make_engine, run_jobs

from minillm.hub import UNWANTED, WANTED
from minillm.models.checkpoint import checkpoint_files

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_llama(tmp_path)
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    make_llama(tmp_path, max_shard_size="60KB")
    return tmp_path


def change(folder: Path, **tensors: Tensor | None) -> None:
    """Rewrite model.safetensors with some tensors replaced, added or (None) taken out; ``__`` stands for a dot."""
    path = folder / "model.safetensors"
    content = {**load_file(path), **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}
    save_file({name: tensor for name, tensor in content.items() if tensor is not None}, path)


def refused(folder: Path, *says: str, kind: type[Exception] = ValueError) -> None:
    with pytest.raises(kind) as caught:
        make_engine(folder)
    for words in says:
        assert words in str(caught.value), str(caught.value)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change(folder, model__layers__1__self_attn__k_proj__weight=None, model__norm__weight=None)
    refused(folder, str(folder), "LlamaForCausalLM", "missing from the checkpoint:", "model.norm.weight",
            "model.layers.1.self_attn.k_proj.weight")  # fmt: skip


def test_a_tensor_left_over_is_named(folder: Path) -> None:
    change(folder, model__layers__9__mlp__up_proj__weight=torch.zeros(2))
    refused(folder, "in the checkpoint, but no part of the model:", "model.layers.9.mlp.up_proj.weight")


def test_a_long_list_is_cut_short(folder: Path) -> None:
    edit_json(folder / "config.json", num_hidden_layers=1)
    refused(folder, "in the checkpoint, but no part of the model:", "and 10 more")


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("model.norm.weight", [47], [48]),
        ("model.embed_tokens.weight", [100, 48], [101, 48]),
        ("model.layers.0.self_attn.q_proj.weight", [96, 47], [96, 48]),
        ("model.layers.2.self_attn.v_proj.weight", [96, 48], [32, 48]),
        ("model.layers.1.mlp.down_proj.weight", [80, 48], [48, 80]),
        ("model.layers.1.mlp.gate_proj.weight", [80], [80, 48]),
        ("lm_head.weight", [101, 48, 1], [101, 48]),
    ],
)
def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(
    folder: Path, name: str, shape: list[int], wanted: list[int]
) -> None:
    change(folder, **{name: torch.zeros(shape)})
    refused(folder, f"tensor {name!r} is {shape}, the config asks for {wanted}")


def test_a_config_that_does_not_go_with_the_weights(folder: Path) -> None:
    edit_json(folder / "config.json", num_key_value_heads=3)
    refused(folder, "k_proj.weight' is [32, 48], the config asks for [48, 48]")


def test_biases_that_the_config_does_not_mention(tmp_path: Path) -> None:
    make_llama(tmp_path, attention_bias=True)
    edit_json(tmp_path / "config.json", attention_bias=False)
    refused(tmp_path, "no part of the model", "self_attn.q_proj.bias")


def test_what_old_checkpoints_hold_too_much_of_is_ignored(folder: Path) -> None:
    change(folder, model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(8))
    make_engine(folder)


def test_a_tied_checkpoint_that_also_holds_its_head(tmp_path: Path) -> None:
    model = make_llama(tmp_path, tie_word_embeddings=True)
    change(tmp_path, lm_head__weight=load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"].clone())
    assert run_jobs(make_engine(tmp_path), [Job((5, 6), 8)]).tokens(0) == hf_greedy(model, [5, 6], 8)


@pytest.mark.parametrize("kept", [0, 4, 100, 5000, -1])
def test_a_file_that_is_cut_short(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(folder, str(path), "damaged or cut short", "fetch it again")


@pytest.mark.parametrize("junk", [b"\xff" * 3000, b"<!DOCTYPE html><html>Not found</html>" * 20, b"\x00" * 3000])
def test_a_file_that_is_no_safetensors_at_all(folder: Path, junk: bytes) -> None:
    (folder / "model.safetensors").write_bytes(junk)
    refused(folder, "model.safetensors", "damaged or cut short")


def test_a_damaged_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[20:24] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(content))
    refused(folder, "model.safetensors", "damaged or cut short")


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, "holds no *.safetensors file", kind=FileNotFoundError)


def test_an_index_that_names_a_shard_that_is_not_there(sharded: Path) -> None:
    lost = sorted(sharded.glob("model-*.safetensors"))[1]
    lost.unlink()
    refused(sharded, INDEX, lost.name, "does not hold", kind=FileNotFoundError)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '"text"', "7", '{"weight_map": []}', '{"weight_map": 5}',
                                     '{"weight_map": {"a": 5}}', "\xff\xfe"])  # fmt: skip
def test_an_index_that_is_none(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_bytes(content.encode("latin-1"))
    refused(sharded, INDEX, "JSON")


def test_a_shard_with_a_tensor_missing(sharded: Path) -> None:
    path = sorted(sharded.glob("model-*.safetensors"))[0]
    tensors = load_file(path)
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, path)
    refused(sharded, "missing from the checkpoint", name)


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1,}', b"[1, 2]", b"null", b"\xff\xfe\x00"])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_broken_json_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    refused(folder, str(folder / name), "JSON")


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[1]", b"\xff\xfe\x00"])
def test_a_broken_tokenizer_is_named(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    refused(folder, str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": "48"}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"vocab_size": 1.5}, "vocab_size"),
        ({"num_key_value_heads": 4}, "num_key_value_heads"),  # 6 heads cannot share 4
        ({"head_dim": 15}, "head_dim"),  # RoPE turns pairs
    ],
)
def test_a_config_with_impossible_numbers_names_the_field(folder: Path, changes: dict[str, object], says: str) -> None:
    edit_json(folder / "config.json", **changes)
    refused(folder, says)


def test_nothing_but_the_named_shards_is_read(sharded: Path) -> None:
    """Some repositories hold the weights twice, the second time under another name; the index decides."""
    save_file({"something.else": torch.zeros(1)}, sharded / "consolidated.safetensors")
    make_engine(sharded)


def test_without_an_index_model_safetensors_is_the_checkpoint(folder: Path) -> None:
    save_file({"something.else": torch.zeros(1)}, folder / "consolidated.safetensors")
    make_engine(folder)


def test_mistrals_own_form_of_the_weights_is_neither_fetched_nor_read(folder: Path) -> None:
    names = ["config.json", "model-00001-of-00003.safetensors", "model.safetensors.index.json", "tokenizer.json",
             "consolidated.safetensors", "consolidated-00001-of-00002.safetensors",
             "consolidated.safetensors.index.json", "README.md"]  # fmt: skip
    wanted = filter_repo_objects(names, allow_patterns=WANTED, ignore_patterns=UNWANTED)
    assert list(wanted) == names[:4]
    weights = (folder / "model.safetensors").rename(folder / "weights.safetensors")
    save_file({"something.else": torch.zeros(1)}, folder / "consolidated.safetensors")
    assert checkpoint_files(folder) == [weights]
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no \*.safetensors file in Hugging Face's form"):
        checkpoint_files(folder)


def test_the_messages_tell_the_folder(folder: Path) -> None:
    change(folder, model__norm__weight=None)
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        make_engine(folder)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
