"""One model whose layers have different formats: each asks for its own by its path, and the logits stay the same."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from bare import Bare
from tiny import ARCHITECTURES, make_model
from torch import Tensor, nn

from minillm.layers.build import LayerBuild
from minillm.layers.linear import LinearBase
from minillm.model_config import ModelConfig
from minillm.models.llama import LlamaForCausalLM, LlamaLayer, LlamaMLP
from minillm.models.registry import register
from minillm.models.weights import build_model
from minillm.quantization.format import DenseFormat, LinearFormat, OneFormat

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
    """`TransposedFormat` for the layers whose path ends with one of ``ends``; remembers who asked."""

    ends: tuple[str, ...]
    asked: list[str] = field(default_factory=list)

    def format_of(self, path: str) -> LinearFormat:
        self.asked.append(path)
        return TransposedFormat() if path.endswith(self.ends) else DenseFormat()


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_different_formats_in_one_model(kind: str, tmp_path: Path) -> None:
    make(tmp_path, kind)
    chosen = Chosen(("layers.1.self_attn.qkv_proj", "layers.0.mlp.gate_up_proj", "2.fc1", "o_proj", "lm_head"))
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
