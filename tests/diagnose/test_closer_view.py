"""Looking closer at a comparison: angles as they were turned, numbers as an activation made them; a brief drawing."""

import io
import math
from pathlib import Path

import pytest
import torch
from rich.console import RenderableType
from tiny import make_model

from minillm.debug.views.theme import make_console
from minillm.diagnose.closer_view import activation_points, between, turned_pairs
from minillm.diagnose.compare import Comparison, compare
from minillm.diagnose.compare_view import draw_brief
from minillm.layers.activation import Activation
from minillm.layers.build import LayerBuild
from minillm.learn.lessons.lesson_19.variant import ARCHITECTURE, forgotten
from minillm.model_config import ModelConfig
from minillm.models import registry
from minillm.models.llama import LlamaForCausalLM
from minillm.models.nanochat import NanoChatForCausalLM

PROMPT = list(range(2, 22))


class LikeLlama(NanoChatForCausalLM):
    """Turns the wrong way and has SiLU."""

    def __init__(self, config: ModelConfig, build: LayerBuild) -> None:
        super().__init__(config, build)
        for layer in self.model.layers:
            layer.mlp.activation = Activation("silu")  # type: ignore[union-attr, assignment]

    look_up = LlamaForCausalLM.look_up


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("nanochat")
    make_model(path, "nanochat")
    return str(path)


@pytest.fixture
def wrong(folder: str) -> Comparison:
    with forgotten():
        registry.register(ARCHITECTURE)(LikeLlama)
        return compare(folder, "hf", PROMPT)


def lines(drawing: RenderableType, width: int = 80) -> list[str]:
    console = make_console(True, width, record=True, file=io.StringIO())
    console.print(drawing)
    text = console.export_text()
    assert text.isascii() and max(map(len, text.splitlines())) <= width
    return text.splitlines()


def test_pairs_turn_by_their_position_one_way_and_the_other(wrong: Comparison) -> None:
    assert wrong.first is not None and str(wrong.first.place) == "layer 0, self_attn.q_rope"
    rows = [line.split() for line in lines(turned_pairs(wrong))[-5:]]
    assert [row[0] for row in rows] == list("01234")
    for position, row in enumerate(rows):
        turned = math.remainder(position, 2 * math.pi)
        assert float(row[3]) == pytest.approx(turned, abs=0.006)
        assert float(row[5]) == pytest.approx(-turned, abs=0.006)
    assert rows[0][3] == rows[0][5] == "+0.00", "and no -0.00"


def test_the_shorter_way_between_two_angles() -> None:
    assert between(3.0, -3.0) == pytest.approx(2 * math.pi - 6, abs=1e-4)
    assert between(1.0, 1.0 - 1e-9) == 0 and math.copysign(1, between(1.0, 1.0 - 1e-9)) == 1


def test_what_an_activation_makes_of_its_numbers(wrong: Comparison) -> None:
    rows = [
        [float(word) for word in line.split()]
        for line in lines(activation_points(wrong, "mlp.fc1", "mlp.fc2 input"))[-7:]
    ]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows) and rows[0][0] < 0 < rows[-1][0]
    inside = wrong.at(0, "mlp.fc1").theirs[0]
    assert rows[0][0] == pytest.approx(float(inside.min()), abs=1e-3)
    for x, _ours, theirs in rows:
        assert theirs == pytest.approx(max(x, 0) ** 2, abs=0.02)
    # Ours is SiLU, of numbers that had gone wrong already in attention.
    mine = wrong.at(0, "mlp.fc1").ours[0]
    assert torch.allclose(wrong.at(0, "mlp.fc2 input").ours[0], torch.nn.functional.silu(mine), atol=1e-5)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_in_brief_no_rounding_is_shown(folder: str, wrong: Comparison, width: int) -> None:
    text = "\n".join(lines(draw_brief(wrong), width))
    assert "First difference: layer 0, self_attn.q_rope" in " ".join(text.split()) and "Not the same" in text
    assert "transformers" not in text, "no version"
    equal = "\n".join(lines(draw_brief(compare(folder, "hf", PROMPT)), width))
    assert "e-" not in equal and "First difference" not in equal and equal.count("=") > 40


def test_what_is_forgotten_comes_back(folder: str) -> None:
    config = ModelConfig.from_folder(Path(folder))
    with pytest.raises(KeyError), forgotten():
        with pytest.raises(ValueError, match="'NanoChatForCausalLM' is not supported; supported: Gemma3"):
            registry.model_class(config)
        registry.register(ARCHITECTURE)(LlamaForCausalLM)
        assert registry.model_class(config) is LlamaForCausalLM
        raise KeyError
    assert registry.model_class(config) is NanoChatForCausalLM
