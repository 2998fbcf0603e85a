"""A model, built and filled from a checkpoint.

It is first built on torch's "meta" device: shapes, no memory. Then its parameters get memory, and every tensor of the
checkpoint is read, cut and fused into its place, so that no more than one tensor is ever held beside the model.
"""

from pathlib import Path

import torch
from torch import nn

from minillm.layers.build import LayerBuild
from minillm.layers.shards import WHOLE
from minillm.model_config import ModelConfig
from minillm.models.checkpoint import read_checkpoint
from minillm.models.registry import model_class
from minillm.models.targets import checkpoint_targets, parts_of, target_of
from minillm.probe import probe

IGNORED = (
    "rotary_emb.inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
)  # old checkpoints hold what we compute


def build_model(config: ModelConfig, build: LayerBuild) -> nn.Module:
    """The model's structure on the meta device: every shape, no memory."""
    with torch.device("meta"):
        model = model_class(config)(config, build)
    check_paths(model)
    probe.on and probe("model.built", model=model, config=config)
    return model


def check_paths(model: nn.Module) -> None:
    """A layer that was told another path than its own would ask for the format of another one."""
    for name, module in model.named_modules():
        path = getattr(module, "path", name)
        if path != name:
            raise ValueError(
                f"{type(model).__name__}: the layer {name!r} was built as {path!r}; give what builds it "
                f'build.at("{name.rpartition(".")[2]}"), where build is that of the module around it'
            )


def materialize(model: nn.Module, device: torch.device) -> None:
    """Give every parameter memory on ``device``, not yet filled. Tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                if id(parameter) not in made:
                    # Not empty_like: from meta to another device, that loads a compiler.
                    memory = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                    made[id(parameter)] = nn.Parameter(memory, requires_grad=False)
                module._parameters[name] = made[id(parameter)]


def load_weights(model: nn.Module, folder: Path, device: torch.device, load_format: str = "auto") -> None:
    """Give a model built by `build_model` its memory and its numbers, and let each layer finish them.

    load_format "dummy": random numbers, for measuring a shape. ValueError names what is missing, left over, of the
    wrong shape, or unreadable.
    """
    materialize(model, device)
    if load_format == "dummy":
        fill_with_noise(model, device)
    else:
        fill_model(model, folder)
    for module in model.modules():
        if finish := getattr(module, "process_weights_after_loading", None):
            finish()


def fill_with_noise(model: nn.Module, device: torch.device) -> None:
    """Random weights, always the same: small ones in matrices; norms do nothing and biases hardly anything. Integers,
    which are packed numbers or indices, are 0."""
    noise = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            parameter.data.zero_()
        elif parameter.dim() > 1:
            # By way of float32, since torch draws no numbers of 8 bits.
            whole = parameter.data if parameter.itemsize > 1 else parameter.data.float()
            parameter.data.copy_(whole.normal_(0, 0.02, generator=noise))
        elif name.endswith("bias"):
            parameter.data.normal_(0, 1e-3, generator=noise)
        else:
            parameter.data.fill_(1.0)


def fill_model(model: nn.Module, folder: Path) -> None:
    """Read every tensor of the checkpoint into its place, and insist that each place got one."""
    targets = checkpoint_targets(model)
    unfilled, left_over = parts_of(targets), []
    tied = getattr(getattr(model, "lm_head", None), "keeps_weight", False)
    for name, tensor in read_checkpoint(folder):
        target = target_of(name, targets)
        if target:
            if list(tensor.shape) != target.shape:
                raise ValueError(
                    f"{folder}: tensor {name!r} is {list(tensor.shape)}, the config asks for {target.shape}"
                )
            target.load(tensor)
            if target.part == WHOLE:
                unfilled[target.name].clear()
            else:
                unfilled[target.name].pop(target.part, None)
        elif not (name.endswith(IGNORED) or (tied and name == "lm_head.weight")):
            left_over.append(name)
    missing = sorted(name for parts in unfilled.values() for name in parts.values())
    if missing or left_over:
        raise ValueError(
            f"{folder} does not fit the architecture {type(model).__name__}"
            + _listing("missing from the checkpoint", missing)
            + _listing("in the checkpoint, but no part of the model", sorted(left_over))
        )


def _listing(title: str, names: list[str]) -> str:
    shown = "".join(f"\n    {name}" for name in names[:8])
    more = f"\n    and {len(names) - 8} more" if len(names) > 8 else ""
    return f"\n  {title}:{shown}{more}" if names else ""
