"""One model whose layers have different formats: each asks for its own by its path, and the logits stay the same."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from bare import Bare
from lookalikes import BlockFp8Like, GptqLike, gptq_tensors
from ranks import on_every_rank
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, edit_json, make_model
from torch import Tensor, nn

from minillm.layers.build import LayerBuild
from minillm.layers.linear import LinearBase
from minillm.model_config import ModelConfig
from minillm.models.llama import LlamaForCausalLM, LlamaLayer, LlamaMLP
from minillm.models.registry import register
from minillm.models.weights import build_model
from minillm.quantization.dense import DenseFormat
from minillm.quantization.format import LinearFormat, OneFormat

KINDS = [*ARCHITECTURES, "opt-350m"]


def make(folder: Path, kind: str) -> Any:
    """A tiny checkpoint; of OPT also one with projections around its layers."""
    if kind == "opt-350m":
        return make_model(folder, "opt", word_embed_proj_dim=24, do_layer_norm_before=False)
    return make_model(folder, kind)


class TransposedFormat(DenseFormat):
    """The same numbers, held ``[K, N]``."""

    name = "transposed"

    def process_weights_after_loading(self, layer: Any) -> None:
        layer.turned = layer.weight.data.T.contiguous()
        if not getattr(layer, "keeps_weight", False):
            layer.weight = None

    def apply(self, layer: Any, x: Tensor) -> Tensor:
        return x @ layer.turned if layer.bias is None else x @ layer.turned + layer.bias


@dataclass
class Chosen:
    """Another format for the layers whose path ends with one of ``ends``; remembers who asked."""

    ends: tuple[str, ...]
    format: LinearFormat
    asked: list[str] = field(default_factory=list)

    def format_of(self, path: str) -> LinearFormat:
        self.asked.append(path)
        return self.format if path.endswith(self.ends) else DenseFormat()


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_different_formats_in_one_model(kind: str, tmp_path: Path) -> None:
    make(tmp_path, kind)
    chosen = Chosen(
        ("layers.1.self_attn.qkv_proj", "layers.0.mlp.gate_up_proj", "2.fc1", "o_proj", "lm_head"), TransposedFormat()
    )
    model = Bare(tmp_path, LayerBuild(formats=chosen))
    formats = {name: module.format.name for name, module in model.model.named_modules() if hasattr(module, "format")}
    assert {name for name, format in formats.items() if format == "transposed"} == {
        name for name in formats if name.endswith(chosen.ends)
    }
    assert set(formats.values()) == {"transposed", "dense"} and set(formats) == set(chosen.asked)
    torch.testing.assert_close(model.walk(), Bare(tmp_path).walk(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_knows_its_path(kind: str, tmp_path: Path) -> None:
    make(tmp_path, kind)
    model = build_model(ModelConfig.from_folder(tmp_path), LayerBuild())
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LinearBase)}
    assert len(layers) >= 2 * 3 and all(module.path == name for name, module in layers.items())
    assert model.lm_head.path == "lm_head"


QUANTISED = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "mlp.down_proj",
    "1.mlp.gate_proj",
    "1.mlp.up_proj",
)
HELD = ("qkv_proj", "down_proj", "1.mlp.gate_up_proj")  # our names for them


def quantise(folder: Path, to: Path, format: GptqLike) -> None:
    """Rewrite a checkpoint with some of its matrices quantised; into ``folder`` go the same numbers, dense."""
    shutil.copytree(folder, to)
    random, dense = torch.Generator().manual_seed(3), load_file(folder / "model.safetensors")
    packed = dict(dense)
    for name in list(dense):
        path = name.removesuffix(".weight")
        if path.endswith(QUANTISED):
            tensors, matrix = gptq_tensors(*dense[name].shape, format.group, format.ordered, random)
            tensors["scales"] /= 100
            dense[name] = matrix / 100
            packed |= {f"{path}.{piece}": tensor for piece, tensor in tensors.items()}
            del packed[name]
    save_file({name: tensor.contiguous() for name, tensor in dense.items()}, folder / "model.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in packed.items()}, to / "model.safetensors")


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_checkpoint_of_which_some_layers_are_quantised(ordered: bool, size: int, tmp_path: Path) -> None:
    """From the file to the logits: pieces found by name, fused, cut, multiplied; on one rank and on two."""
    dense, packed, format = tmp_path / "dense", tmp_path / "packed", GptqLike(8, ordered)
    make_model(dense, "llama", attention_bias=True)
    quantise(dense, packed, format)
    chosen = Chosen(HELD, format)
    expected = Bare(dense).walk()
    for logits in on_every_rank(size, lambda group: Bare(packed, LayerBuild(formats=chosen, group=group)).walk()):
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("format", [GptqLike(8), BlockFp8Like(16)], ids=lambda format: format.name)
def test_invented_weights_of_any_format(format: LinearFormat, tmp_path: Path) -> None:
    """load_format="dummy": for measuring, so they need be no more than numbers."""
    make(tmp_path, "mixtral")
    edit_json(tmp_path / "config.json", intermediate_size=32)
    assert Bare(tmp_path, LayerBuild(formats=Chosen(("proj", "w13", "w2"), format)), "dummy").walk().isfinite().all()


def test_a_tied_head_shares_a_plain_table(tmp_path: Path) -> None:
    make_model(tmp_path, "llama", vocab_size=104, tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"lm_head is tied to the embedding, .* cannot be held as 'like GPTQ'"):
        build_model(ModelConfig.from_folder(tmp_path), LayerBuild(formats=OneFormat(GptqLike(8))))


def test_a_layer_that_is_told_another_path_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Layer(LlamaLayer):
        def make_mlp(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
            return LlamaMLP(config, build.at("feed_forward"))

    class Model(LlamaForCausalLM):
        def make_layer(self, config: ModelConfig, layer: int, build: LayerBuild) -> nn.Module:
            return Layer(config, layer, build)

    make(tmp_path, "llama")
    config, own = ModelConfig.from_folder(tmp_path), LlamaForCausalLM
    try:
        register(config.architecture)(Model)
        with pytest.raises(
            ValueError, match=r"'model.layers.0.mlp.gate_up_proj' was built as 'model.layers.0.mlp.feed_forward.gate_up"
        ):
            build_model(config, LayerBuild())
    finally:
        register(config.architecture)(own)


def test_a_name_with_dots() -> None:
    build = LayerBuild().at("model.layers.3").at("mlp")
    assert build.path == "model.layers.3.mlp" and LayerBuild().path == ""
    assert build.format is LayerBuild(formats=OneFormat(build.format)).at("elsewhere").format
