"""Checkpoint 19: a Llama variant of its own. Oracles: the formulas by hand, lists by hand, Hugging Face's nanochat."""

import math
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from exercises import close, jobs_for, random, tokens_of_hugging_face
from safetensors import safe_open
from tiny import Oracle, make_model
from torch import Tensor
from transformers.activations import ACT2FN
from transformers.models.nanochat.modeling_nanochat import apply_rotary_pos_emb

from minillm.kernels.torch import kernels as torch_kernels
from minillm.kernels.torch.kernels import ACTIVATIONS, TorchKernels
from minillm.layers.build import LayerBuild
from minillm.model_config import ModelConfig
from minillm.models import targets
from minillm.models.nanochat import NanoChatForCausalLM
from minillm.models.weights import build_model


@cache
def variant(kind: str = "nanochat") -> Oracle:
    """A tiny model with random weights, and Hugging Face's model of it."""
    folder = Path(tempfile.mkdtemp(prefix="minillm-variant-"))
    return Oracle(folder, make_model(folder, kind, vocab_size=258))


def turned(heads: Tensor, positions: list[int]) -> Tensor:
    """``heads [T, n, D]``, turned by the kernels with what the model looked up for these positions."""
    fields = {"hidden_size": 2 * heads.shape[-1], "num_attention_heads": 2, "vocab_size": 9, "num_hidden_layers": 1}
    config = ModelConfig.from_dict({"architectures": ["NanoChatForCausalLM"], "intermediate_size": 4, **fields})
    model, batch, heads = NanoChatForCausalLM(config, LayerBuild()), SimpleNamespace(rope=None), heads.clone()
    model.make_tables(64, torch.device("cpu"))
    tables = model.rotary.cos.clone(), model.rotary.sin.clone()
    model.look_up(torch.tensor(positions), batch)
    assert batch.rope is not None, "batch.rope is still empty: every head of this step looks there for its angles"
    TorchKernels().rotate(heads, *batch.rope)
    for name, table, kept in zip(("cos", "sin"), (model.rotary.cos, model.rotary.sin), tables):
        close(table, kept, f"the table of {name}, which must stay as it is for the next step", "position number")
    return heads


class TestLookUp:
    """19.1"""

    def test_position_0_is_not_turned(self) -> None:
        heads = random(1, 3, 8)
        close(turned(heads, [0]), heads, "heads at position 0", "token head number")

    def test_a_pair_turns_clockwise(self) -> None:
        """The first pair's frequency is 1: at position 1 it turns by one radian."""
        heads = torch.tensor([[[1.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 0.0]]])  # the pair (1, 0), then (0, 1)
        right = torch.tensor([[[math.cos(1), 0, -math.sin(1), 0]], [[math.sin(1), 0, math.cos(1), 0]]])
        close(turned(heads, [1, 1]), right, "the pairs (1, 0) and (0, 1) at position 1", "token head number")

    def test_each_token_turns_by_its_own_position(self) -> None:
        heads, positions = random(4, 2, 6), [7, 0, 3, 50]
        right = torch.zeros(4, 2, 6)
        for token, position in enumerate(positions):
            for i in range(3):
                x = position * 10000.0 ** (-2 * i / 6)
                a, b = heads[token, :, i], heads[token, :, i + 3]
                right[token, :, i] = a * math.cos(x) + b * math.sin(x)
                right[token, :, i + 3] = b * math.cos(x) - a * math.sin(x)
        close(turned(heads, positions), right, "heads at positions 7, 0, 3 and 50", "token head number")

    def test_it_is_hugging_faces(self) -> None:
        rotary, heads, positions = variant().model.model.rotary_emb, random(5, 6, 8), torch.tensor([[9, 1, 4, 4, 30]])
        cos, sin = rotary(heads, positions)
        right, _ = apply_rotary_pos_emb(heads.transpose(0, 1)[None], heads.transpose(0, 1)[None], cos, sin)
        close(
            turned(heads, positions[0].tolist()), right[0].transpose(0, 1), "Hugging Face's heads", "token head number"
        )

    def test_the_engine_writes_the_right_tokens(self) -> None:
        tokens_of_hugging_face(variant(), jobs_for())
        tokens_of_hugging_face(variant(), jobs_for(), max_num_batched_tokens=6, page_size=3)


class TestReluSquared:
    """19.2"""

    def test_below_zero_is_zero_and_above_is_squared(self) -> None:
        x = torch.tensor([[-4.0, -0.5, 0.0, 0.5, 1.0, 3.0]])
        right = torch.tensor([[0.0, 0.0, 0.0, 0.25, 1.0, 9.0]])
        got = torch_kernels.relu_squared(x)
        close(got, right, "the squared ReLU of -4, -0.5, 0, 0.5, 1 and 3", "token number")

    def test_what_went_in_stays(self) -> None:
        x = random(3, 5)
        kept = x.clone()
        torch_kernels.relu_squared(x)
        close(x, kept, "x, which must stay as it is", "token number")

    def test_it_is_what_configs_call_relu2(self) -> None:
        x = random(2, 3, 5, scale=3)
        close(
            ACTIVATIONS["relu2"](x),
            ACT2FN["relu2"](x),
            "hidden_act='relu2', as Hugging Face has it",
            "token head number",
        )

    def test_the_engine_writes_the_right_tokens(self) -> None:
        tokens_of_hugging_face(variant(), jobs_for())


def places(kind: str) -> dict[str, tuple[str, int]]:
    """What the function says of a tiny model: each tensor's name, with the parameter and the part that it fills."""
    model = build_model(ModelConfig.from_folder(variant(kind).folder), LayerBuild())
    found = targets.checkpoint_targets(model)
    assert isinstance(found, dict), f"a table from each tensor's name to its Target was wanted, this is {found!r}"
    for name, target in found.items():
        home = model.get_parameter(target.name)
        assert target.parameter is home, f"tensor {name!r}: its Target's parameter is not the one called {target.name}"
        path = target.name.rpartition(".")[0]
        assert target.module is model.get_submodule(path), f"tensor {name!r}: its Target's module is not {path}"
    return {name: (target.name, target.part) for name, target in found.items()}


def placed(kind: str, name: str, parameter: str, part: int) -> None:
    found = places(kind)
    assert name in found, f"{kind}: tensor {name!r} has no place; the table has {', '.join(list(found)[:8])}, ..."
    assert found[name] == (parameter, part), (
        f"{kind}: tensor {name!r} goes to (parameter, part) {found[name]}, and {(parameter, part)} is right"
    )


class TestCheckpointTargets:
    """19.3"""

    def test_a_tensor_has_its_parameters_name(self) -> None:
        for name in ("model.embed_tokens.weight", "model.layers.2.mlp.fc1.weight", "model.layers.0.mlp.fc2.weight"):
            placed("nanochat", name, name, 0)

    def test_three_tensors_become_one_parameter(self) -> None:
        at = "model.layers.1.self_attn"
        for part, kind in enumerate("qkv"):
            placed("nanochat", f"{at}.{kind}_proj.weight", f"{at}.qkv_proj.weight", part)
        assert f"{at}.qkv_proj.weight" not in places("nanochat"), (
            f"{at}.qkv_proj.weight is no tensor of the checkpoint: its three parts are"
        )

    def test_one_tensor_for_all_parts(self) -> None:
        at = "model.layers.1.mlp.gate_up_proj.weight"
        placed("phi3", at, at, -1)

    def test_biases_go_with_their_weights(self) -> None:
        at = "model.layers.0.self_attn"
        placed("qwen2", f"{at}.k_proj.bias", f"{at}.qkv_proj.bias", 1)

    def test_the_checkpoints_own_words(self) -> None:
        theirs, ours = (f"model.decoder.layers.1.self_attn.{name}.weight" for name in ("out_proj", "o_proj"))
        placed("opt", theirs, ours, 0)
        placed("opt", ours, ours, 0)
        order = list(places("opt"))
        assert order.index(theirs) < order.index(ours), (
            f"of a tensor's two names the checkpoint's own, {theirs!r}, must come first"
        )

    def test_words_are_whole(self) -> None:
        """w1 is gate_proj; a stack called gate_up_proj has another word in its name, and keeps it."""
        at, ours = "model.layers.0.block_sparse_moe.experts", "model.layers.0.mlp.experts"
        placed("mixtral", f"{at}.2.w3.weight", f"{ours}.w13.weight", 5)
        placed("mixtral", f"{at}.4.w2.weight", f"{ours}.w2.weight", 4)
        placed("mixtral", f"{at}.gate_up_proj", f"{ours}.w13.weight", -1)

    def test_every_tensor_of_hugging_faces_checkpoints_has_a_place_of_its_shape(self) -> None:
        for kind in ("nanochat", "gemma3_text", "phi3", "opt", "mixtral"):
            model = build_model(ModelConfig.from_folder(variant(kind).folder), LayerBuild())
            found = targets.checkpoint_targets(model)
            with safe_open(variant(kind).folder / "model.safetensors", "pt") as reader:
                for name in reader.keys():  # noqa: SIM118 (a safe_open is no dict)
                    shape = list(reader.get_slice(name).get_shape())
                    assert name in found, f"{kind}: tensor {name!r} of the checkpoint has no place"
                    assert found[name].shape == shape, (
                        f"{kind}: tensor {name!r} is {shape}, its place {found[name].name}, part "
                        f"{found[name].part}, takes {found[name].shape}"
                    )

    def test_the_engine_writes_the_right_tokens(self) -> None:
        tokens_of_hugging_face(variant(), jobs_for())
        tokens_of_hugging_face(variant("opt"), jobs_for())
