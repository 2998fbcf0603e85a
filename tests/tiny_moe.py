"""Tiny mixtures of experts, in the spellings that there are."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tiny import edit_json, make_model, write_v4_config
from torch import Tensor

SEEDS = {"mixtral": 3, "qwen3_moe": 4}  # of models whose greedy text does not go in circles


def make_moe(folder: Path, kind: str = "qwen3_moe", **fields: Any) -> Any:
    """As `make_model`; the oracle computes its experts one after another, which it can whatever their sizes."""
    model = make_model(folder, kind, **{"seed": SEEDS[kind], **fields})
    model.set_experts_implementation("eager")
    return model


def change(folder: Path, tensors: dict[str, Tensor | None]) -> None:
    """Rewrite model.safetensors with some tensors replaced, added or (None) taken out."""
    path = folder / "model.safetensors"
    content = {**load_file(path), **tensors}
    save_file({name: tensor.contiguous() for name, tensor in content.items() if tensor is not None}, path)


def stack_experts(folder: Path, model: Any) -> None:
    """Write the tensors under the names that transformers v5 has for them in memory: a layer's experts in one."""
    change(folder, dict.fromkeys(load_file(folder / "model.safetensors")))
    change(folder, {name: tensor.detach().clone() for name, tensor in model.state_dict().items()})


def write_v4_moe_config(folder: Path) -> None:
    """Rewrite config.json as transformers v4 wrote it, where Qwen3-MoE called the number of experts otherwise."""
    write_v4_config(folder)
    path = folder / "config.json"
    if '"qwen3_moe"' in path.read_text(encoding="utf-8"):
        import json

        number = json.loads(path.read_text(encoding="utf-8"))["num_local_experts"]
        edit_json(path, num_local_experts=None, num_experts=number)
