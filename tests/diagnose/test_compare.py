"""Comparing: equal computations are equal everywhere, and a planted difference is found at the place it was put."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import RenderableType
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, Oracle, edit_json, make_llama, make_model
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM

from minillm.debug.catalogue import catalogue, locations
from minillm.debug.views.theme import make_console
from minillm.diagnose.compare import Comparison, compare
from minillm.diagnose.compare_view import draw, small
from minillm.diagnose.compared import Compared, difference
from minillm.diagnose.huggingface import observe_huggingface
from minillm.diagnose.places import Observation, Place, norm_paths, place_of, rows_of
from minillm.diagnose.stopping import condition_for, probe_for, stop_at_first
from minillm.layers.build import LayerBuild
from minillm.model_config import ModelConfig
from minillm.models import registry
from minillm.models.llama import LlamaForCausalLM
from minillm.text.tokenizer import Tokenizer

PROMPT = list(range(2, 22))
LAYER = [
    "stream", "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_rope",
    "self_attn.k_rope", "self_attn.o_proj input", "self_attn", "stream_mlp", "post_attention_layernorm",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj input", "mlp",
]  # fmt: skip


@pytest.fixture
def model(oracle: Oracle) -> str:
    return str(oracle.folder)


@pytest.fixture
def copy(oracle: Oracle, tmp_path: Path) -> Path:
    """The same checkpoint, to plant something in."""
    shutil.copytree(oracle.folder, tmp_path / "model")
    return tmp_path / "model"


def first(found: Comparison) -> str:
    assert found.first is not None and not found.equal
    return str(found.first.place)


def show(drawing: RenderableType, width: int, plain: bool = True) -> str:
    console = make_console(plain, width, record=True, file=io.StringIO())
    console.print(drawing)
    return console.export_text()


# ------------------------------------------------------------------------------------------------ equal


@pytest.mark.parametrize("decode", [0, 4])
def test_ours_and_hugging_face_are_the_same(model: str, decode: int) -> None:
    found = compare(model, "hf", PROMPT, decode=decode)
    assert found.equal and found.first is None
    assert (found.only_ours, found.only_theirs, found.unlike) == ([], [], [])
    inside = [(layer, name) for layer in range(3) for name in LAYER]
    expected = [(None, "embed_tokens"), *inside, (None, "stream"), (None, "norm"), (None, "logits")]
    assert [(one.place.layer, one.place.name) for one in found.compared] == expected, "in the order of a forward pass"
    assert found.at(2, "mlp").positions == list(range(20 + decode)), "every token, prompt and decoded"
    assert found.at(None, "logits").positions == list(range(19, 20 + decode)), "ours has those that it samples from"
    assert found.at(0, "self_attn.q_rope").ours.shape == (20 + decode, 6 * 16)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernels": "torch"},
        {"page_size": 4},
        {"block_size": 1},
        {"max_num_batched_tokens": 7},
        {"reuse_kv": False},
        {"pack_weights": False, "attention_backend": "reference"},
    ],
    ids=str,
)
def test_settings_are_the_same(model: str, settings: dict[str, Any]) -> None:
    found = compare(model, settings, PROMPT, decode=3)
    assert found.equal and len(found.compared) == 4 + 3 * len(LAYER)
    assert found.at(1, "self_attn").positions == list(range(23))


def test_biases_and_chunks_against_hugging_face(tmp_path: Path) -> None:
    make_llama(tmp_path, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)
    assert compare(str(tmp_path), "hf", PROMPT, {"max_num_batched_tokens": 6, "page_size": 4}, decode=2).equal


# What each architecture has beside an embedding, the layers' streams, attention and logits.
OWN = {
    "qwen3": {"self_attn.q_norm", "self_attn.k_norm", "mlp.up_proj"},
    "phi3": {"self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj input"},
    "gemma3_text": {"self_attn.q_norm", "pre_feedforward_layernorm", "post_feedforward_layernorm"},
    "mixtral": {"mlp.gate", "mlp"},
    "qwen3_moe": {"mlp.gate", "self_attn.k_norm"},
    "nanochat": {"mlp.fc1", "mlp.fc2 input", "mlp", "self_attn.q_rope"},
    "opt": {"embed_positions", "fc1", "fc2 input", "fc2", "final_layer_norm"},
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_is_seen_through(kind: str, tmp_path: Path) -> None:
    """All places of both sides are compared, whatever an architecture calls them, and are equal."""
    make_model(tmp_path, kind)
    found = compare(str(tmp_path), "hf", PROMPT, decode=3)
    assert found.equal and (found.only_ours, found.only_theirs, found.unlike) == ([], [], [])
    common = {"embed_tokens", "stream", "stream_mlp", "self_attn.o_proj input", "self_attn", "logits"}
    assert common | OWN.get(kind, set()) <= set(found.names())
    assert found.at(2, "self_attn").positions == list(range(23))
    assert "not compared" not in show(draw(found), 80)


def test_a_norm_after_its_part(tmp_path: Path) -> None:
    """OPT 350m: no module of Hugging Face's reads the residual stream alone."""
    make_model(tmp_path, "opt", do_layer_norm_before=False, word_embed_proj_dim=20)
    found = compare(str(tmp_path), "hf", PROMPT)
    assert found.equal and (found.only_ours, found.only_theirs) == (["stream", "stream_mlp"], [])


def test_as_many_heads_as_tokens(tmp_path: Path) -> None:
    """Then [1, H, T, D] and [1, T, H, D] look alike: rather not compared than compared wrongly."""
    make_model(tmp_path, "gemma3_text")
    found = compare(str(tmp_path), "hf", PROMPT[:6])
    assert found.equal and (found.only_ours, found.only_theirs) == (["self_attn.q_norm"], [])
    assert compare(str(tmp_path), "hf", PROMPT[:1]).equal


def test_the_tolerance_is_what_decides(model: str) -> None:
    assert not compare(model, {"kernels": "torch"}, PROMPT, tolerance=0).equal


# ------------------------------------------------------------------------------------------------ planted differences


def plant(folder: Path, name: str, edit: Callable[[Tensor], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "name, place",
    [
        ("model.layers.1.self_attn.o_proj.weight", "layer 1, self_attn"),
        ("model.layers.1.self_attn.k_proj.weight", "layer 1, self_attn.k_proj"),
        ("model.layers.2.mlp.up_proj.weight", "layer 2, mlp.up_proj"),
        ("model.layers.0.mlp.down_proj.weight", "layer 0, mlp"),
        ("lm_head.weight", "logits"),
    ],
)
def test_one_changed_number_is_found_at_its_place(model: str, copy: Path, name: str, place: str) -> None:
    plant(copy, name, lambda weight: weight[7, 3].add_(2.0))
    found = compare(model, {"model": str(copy)}, PROMPT)
    assert first(found) == place
    one = found.first
    assert one is not None and one.channel == 7, "row 7 of the weight makes number 7 of the output"
    assert found.suspect["model"] == str(copy)


def test_a_changed_embedding_is_found_at_its_token(model: str, copy: Path) -> None:
    plant(copy, "model.embed_tokens.weight", lambda weight: weight[PROMPT[11], 5].add_(0.5))
    found = compare(model, {"model": str(copy)}, PROMPT)
    assert first(found) == "embed_tokens"
    assert found.first is not None and (found.first.position, found.first.channel) == (11, 5)
    assert found.first.tokens_beyond() == [11] and found.first.count_beyond == 1
    assert found.first.difference == pytest.approx(0.5)


def test_a_final_norm(model: str, copy: Path) -> None:
    plant(copy, "model.norm.weight", lambda weight: weight[4].add_(0.5))
    assert first(compare(model, {"model": str(copy)}, PROMPT)) == "norm"


def test_a_wrong_theta(model: str, copy: Path) -> None:
    edit_json(copy / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 5000.0})
    found = compare(model, {"model": str(copy)}, PROMPT)
    assert first(found) == "layer 0, self_attn.q_rope"
    assert found.first is not None and found.first.head is not None
    assert 0 not in found.first.tokens_beyond(), "position 0 is not turned at all"
    assert found.at(0, "self_attn.v_proj").equal


def test_nan_on_one_side(model: str, copy: Path) -> None:
    plant(copy, "model.layers.1.input_layernorm.weight", lambda weight: weight[3].fill_(float("nan")))
    found = compare(model, {"model": str(copy)}, PROMPT)
    assert first(found) == "layer 1, input_layernorm"
    assert found.first is not None and found.first.difference == float("inf") and found.first.channel == 3


class WrongEps(LlamaForCausalLM):
    """What a learner may write: all as in Llama, but for one number."""

    def __init__(self, config: ModelConfig, build: LayerBuild) -> None:
        super().__init__(config, build)
        for layer in self.model.layers:
            layer.post_attention_layernorm.eps = 0.1  # type: ignore[union-attr]


class WrongPairs(LlamaForCausalLM):
    """Rotary positions turned the other way round."""

    def forward(self, input_ids: Tensor, positions: Tensor, batch: Any) -> Tensor:
        return super().forward(input_ids, -positions + int(positions.max()), batch)


@pytest.mark.parametrize(
    "written, place",
    [(WrongEps, "layer 0, post_attention_layernorm"), (WrongPairs, "layer 0, self_attn.q_rope")],
)
def test_a_model_class_of_ones_own_against_hugging_face(
    model: str, monkeypatch: pytest.MonkeyPatch, written: type, place: str
) -> None:
    monkeypatch.setitem(registry._MODELS, "LlamaForCausalLM", written)
    found = compare(model, "hf", PROMPT)
    assert first(found) == place
    assert found.suspect["model"] == model


def test_tokens_that_part(model: str, copy: Path) -> None:
    """Each side goes on with its own tokens; what comes after they part is not compared."""
    plant(copy, "lm_head.weight", lambda weight: weight[9].mul_(100))
    found = compare(model, {"model": str(copy)}, PROMPT, decode=6)
    assert not found.same_tokens and not found.equal
    assert found.shared_tokens == 20 and found.at(0, "mlp").positions == list(range(20))
    assert "They chose different tokens" in show(draw(found), 80)


# ------------------------------------------------------------------------------------------------ places


@pytest.mark.parametrize(
    "path, place",
    [
        ("model.layers.3.self_attn", Place(3, "self_attn")),
        ("model.decoder.layers.0.self_attn_layer_norm", Place(0, "self_attn_layer_norm")),
        ("model.language_model.layers.11.mlp.gate", Place(11, "mlp.gate")),
        ("model.embed_tokens", Place(None, "embed_tokens")),
        ("model.layers.3", None),
        ("model.layers", None),
        ("model", None),
        ("lm_head", None),
        ("model.rotary_emb", None),
        ("model.layers.3.mlp.experts.5.up_proj", None),
        ("model.layers.3.mlp.experts", None),
        ("model.vision_tower.encoder.layers.3.mlp", None),
    ],
)
def test_places(path: str, place: Place | None) -> None:
    assert place_of(path, has_children=path.endswith(("model", "layers", "layers.3"))) == place


def test_another_architecture_of_hugging_face(tmp_path: Path) -> None:
    """OPT has other names, LayerNorms, and no rotation: what it has is observed under the names of its modules."""
    config = OPTConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=4,
        max_position_embeddings=32, word_embed_proj_dim=32, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    model = OPTForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    seen = observe_huggingface(tmp_path, [3, 4, 5, 6], 4, torch.float32, torch.device("cpu"))
    names = {place.name for place in seen.places() if place.layer == 1}
    assert {"stream", "self_attn.q_proj", "self_attn.out_proj input", "self_attn", "stream_mlp", "fc2"} <= names
    with torch.no_grad():
        out = model(torch.tensor([[3, 4, 5, 6]]), output_hidden_states=True)
    assert torch.allclose(seen.at(Place(None, "logits"))[1], out.logits[0], atol=1e-5)
    assert torch.allclose(seen.at(Place(1, "stream"))[1], out.hidden_states[1][0], atol=1e-5)


def test_sandwich_norms() -> None:
    """With four norms in a layer, the MLP's stream enters the one before the MLP."""
    layer = torch.nn.ModuleDict(
        {name: torch.nn.LayerNorm(4) for name in (
            "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")}
    )  # fmt: skip
    model = torch.nn.ModuleDict({"model": torch.nn.ModuleDict({"layers": torch.nn.ModuleList([layer])})})
    assert norm_paths(model) == {
        "model.layers.0.input_layernorm": Place(0, "stream"),
        "model.layers.0.pre_feedforward_layernorm": Place(0, "stream_mlp"),
    }


def test_what_only_one_side_has_is_said(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without some of the probes, as one's own may be: what its modules put out is compared all the same."""
    monkeypatch.setattr("minillm.diagnose.ours.PROBES", ("batch.build", "layer.attention", "model.logits"))
    found = compare(model, "hf", PROMPT)
    assert found.equal and found.only_ours == []
    assert found.only_theirs == ["self_attn.q_rope", "self_attn.k_rope", "stream_mlp", "stream", "logits"]
    assert "so not compared: self_attn.q_rope, self_attn.k_rope, stream_mlp, stream, logits" in " ".join(
        show(draw(found), 80).split()
    )


def test_rows_of_what_modules_put_out() -> None:
    x = torch.rand(3, 4)
    for value in (x, x[None], (x, None), [x[None]], (x.double(),)):
        rows = rows_of(value, 3)
        assert rows is not None and torch.equal(rows, x) and rows.data_ptr() != x.data_ptr()
    for nothing in (None, (), x.long(), x[0], torch.rand(5, 4)):
        assert rows_of(nothing, 3) is None


def test_a_token_computed_twice_counts_as_computed_last() -> None:
    seen = Observation("a")
    seen.add(Place(0, "mlp"), [1, 0], torch.tensor([[1.0], [0.0]]))
    seen.add(Place(0, "mlp"), [1, 2], torch.tensor([[10.0], [20.0]]))
    positions, rows = seen.at(Place(0, "mlp"))
    assert positions == [0, 1, 2] and rows.tolist() == [[0.0], [10.0], [20.0]]


def test_differences_of_numbers_that_are_none() -> None:
    inf, nan = float("inf"), float("nan")
    a, b = torch.tensor([1.0, inf, nan, inf, nan, inf]), torch.tensor([1.5, inf, nan, -inf, 1.0, 2.0])
    assert difference(a, b).tolist() == [0.5, 0.0, 0.0, inf, inf, inf]


def test_the_limit_grows_with_the_numbers() -> None:
    ones = torch.full((1, 4), 1000.0)
    one = Compared(Place(0, "mlp"), [0], ones, ones + 0.05, 1e-4)
    assert one.equal and one.limit == pytest.approx(0.1, rel=1e-3)
    assert not Compared(Place(0, "mlp"), [0], ones / 1000, ones / 1000 + 0.05, 1e-4).equal


# ------------------------------------------------------------------------------------------------ showing and stopping


@pytest.mark.parametrize("width", [80, 100, 120, 160])
@pytest.mark.parametrize("plain", [False, True])
def test_it_fits_and_says_everything(model: str, copy: Path, width: int, plain: bool) -> None:
    plant(copy, "model.layers.1.self_attn.o_proj.weight", lambda weight: weight[7, 3].add_(2.0))
    found = compare(model, {"model": str(copy)}, PROMPT)
    text = show(draw(found, Tokenizer(copy)), width, plain)
    assert max(map(len, text.splitlines())) <= width
    assert not plain or text.isascii()
    arrow = "<-" if plain else "◄"
    assert text.count(f" {arrow}") == 3, "in the matrix, in the legend, above the numbers"
    assert "First difference: layer 1, self_attn (attention's output)" in text
    assert "Look at: o_proj's weight and bias" in text and "Not the same" in text
    one = found.first
    assert one is not None and f"{float(one.ours[one.row, one.channel]):.5f}" in text
    (row,) = [line for line in text.splitlines() if line.split()[:1] == ["1"] and arrow in line]
    assert row.split().index(arrow) > 8, "in the row of layer 1, after eight places that agree"


@pytest.mark.parametrize(
    "value, text", [(0.0, "0"), (3.4e-7, "3e-7"), (0.05, "5e-2"), (12.3, "12"), (float("inf"), "inf"), (1e5, "1e5")]
)
def test_small_numbers(value: float, text: str) -> None:
    assert small(value) == text


def test_every_place_has_a_probe_and_a_condition(model: str) -> None:
    for one in compare(model, "hf", PROMPT).compared:
        probe, layer = probe_for(one.place), one.place.layer
        assert probe in catalogue()
        assert ("layer" in catalogue()[probe].values) == (layer is not None)
        assert layer is None or condition_for(one).startswith(f"layer == {layer} and ")


PROGRAM = """
import sys
from minillm.diagnose.compare import compare
from minillm.diagnose.stopping import stop_at_first
found = compare(sys.argv[1], {"model": sys.argv[2], "max_num_batched_tokens": 8}, list(range(2, 22)), decode=2)
print("came by:", stop_at_first(found))
"""


@pytest.mark.parametrize(
    "name, probe, asked",
    [
        ("model.layers.1.self_attn.o_proj.weight", "attention.attend", "self.layer"),
        ("model.layers.2.mlp.up_proj.weight", "layer.mlp", "self.layer"),
        ("model.norm.weight", "model.norm", "3 - 1"),
        ("lm_head.weight", "model.logits", "samplers[0].count, [row.start + row.count - 1 for row in samplers]"),
    ],
)
def test_it_stops_there(model: str, copy: Path, name: str, probe: str, asked: str) -> None:
    plant(copy, name, lambda weight: weight.view(-1)[5].add_(2.0))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, model, str(copy)],
        input=f"p {asked if 'row' in asked else f'{asked}, batch.positions.tolist()'}\nw\nc\n" + "c\n" * 5,
        env={name: value for name, value in os.environ.items() if not name.startswith("MINILLM_")}
        | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    places = [place for place in locations()[probe] if not place.file.startswith("minillm/models/")]
    (place,) = places or [place for place in locations()[probe] if place.file.endswith("llama.py")]
    head, first_stop, *others = done.stdout.split(f"── {probe} ── ")
    assert head.startswith("pdb:") and f"{Path(place.file).name}({place.stops_at})" in first_stop
    found = compare(model, {"model": str(copy), "max_num_batched_tokens": 8}, PROMPT, decode=2)
    one = found.first
    assert one is not None
    layer, positions = json.loads(first_stop.partition("(Pdb) (")[2].partition(")\n")[0].join("[]"))
    assert layer == (one.place.layer if one.place.layer is not None else layer)
    assert one.position in positions, "the step that computes the token that differs most"
    assert others == [], "nowhere else"
    assert done.stdout.endswith("came by: True\n")


def test_a_place_that_has_no_probe_in_this_model(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compare(model, "hf", PROMPT, tolerance=0)
    monkeypatch.setattr("minillm.diagnose.stopping.probe_for", lambda place: "kv.free")
    monkeypatch.setattr("minillm.diagnose.stopping.condition_for", lambda one: "False")
    assert stop_at_first(found), "kv.free comes by at the end"
    monkeypatch.setattr("minillm.diagnose.stopping.probe_for", lambda place: "scheduler.preempt")
    assert not stop_at_first(found)


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"against": "vllm"}, "against is 'vllm'; it must be 'hf'"),
        ({"against": {"page_sise": 4}}, "did you mean 'page_size'"),
        ({"prompt": []}, "the prompt has no tokens"),
        ({"decode": -1}, "both must be 0 or more"),
    ],
)
def test_what_is_refused(model: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compare(model, **{"prompt": PROMPT, **arguments})


def test_what_transformers_cannot_load(copy: Path) -> None:
    with pytest.raises(ValueError, match="cannot load"):
        observe_huggingface(copy / "nowhere", PROMPT, 20, torch.float32, torch.device("cpu"))
