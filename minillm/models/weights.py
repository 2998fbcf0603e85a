"""From a checkpoint's files into a model's parameters, one tensor at a time.

A model is first built on torch's "meta" device: shapes, no memory. Then its parameters get memory, and every tensor of
the checkpoint is read, cut and fused into its place, so that no more than one tensor is ever held beside the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from minillm.files import read_json
from minillm.layers.build import LayerBuild
from minillm.layers.experts import Experts
from minillm.layers.linear import WHOLE
from minillm.model_config import ModelConfig
from minillm.models.registry import model_class
from minillm.probe import probe

IGNORED = (
    "rotary_emb.inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
)  # old checkpoints hold what we compute
PROGRESS_FROM = 200 * 2**20  # bytes of checkpoint above which a progress bar pays


@runtime_checkable
class LoadsParts(Protocol):
    """A layer, such as a fused or a sharded one, that knows how a checkpoint's tensors go into its parameters."""

    def load(self, parameter: nn.Parameter, tensor: Tensor, part: int) -> None:
        """Copy this rank's share of the whole ``tensor`` to its place."""

    def checkpoint_shape(self, parameter: nn.Parameter, part: int) -> list[int]:
        """The shape of that tensor, whole."""


@dataclass
class Target:
    """Where one tensor of the checkpoint goes: ``part`` of ``parameter`` (called ``name``) of ``module``.

    Part `WHOLE` is all parts at once.
    """

    module: nn.Module
    parameter: nn.Parameter
    name: str
    part: int = 0

    @property
    def shape(self) -> list[int]:
        """What the checkpoint's tensor must look like: whole, not this rank's shard."""
        if isinstance(self.module, LoadsParts):
            return self.module.checkpoint_shape(self.parameter, self.part)
        return list(self.parameter.shape)

    def load(self, tensor: Tensor) -> None:
        probe.on and probe("weights.tensor", target=self, tensor=tensor)
        if isinstance(self.module, LoadsParts):
            self.module.load(self.parameter, tensor, self.part)
        else:
            self.parameter.data.copy_(tensor)


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
    """Random weights, always the same: small ones in matrices; norms do nothing and biases hardly anything."""
    noise = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.02, generator=noise)
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


def checkpoint_targets(model: nn.Module) -> dict[str, Target]:
    """The checkpoint's tensor names, each with its place. Several names may mean one place: the usual one is first.

    Fused parameters stand for several names, listed by the model (``fused``) or by the layer (`Experts`). Where a
    checkpoint has another word for something than we have, the model says so (``spelling``: ours -> theirs); names in
    our spelling are understood too.
    """
    spelling: dict[str, str] = getattr(model, "spelling", {})
    targets: dict[str, Target] = {}
    for name, parameter in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        for ours, part in _sources(model, module, path, leaf):
            target = Target(module, parameter, name, part)
            theirs = ".".join(spelling.get(word, word) for word in ours.split("."))
            targets |= {theirs: target, ours: target}
    return targets


def target_of(name: str, targets: dict[str, Target]) -> Target | None:
    """The place of the checkpoint's tensor ``name``, which has no "model." if it was saved without its head."""
    return targets.get(name) or targets.get(f"model.{name}")


def _sources(model: nn.Module, module: nn.Module, path: str, leaf: str) -> Iterator[tuple[str, int]]:
    """The tensors that make up parameter ``leaf`` of the module at ``path``: name and part."""
    fused: dict[str, tuple[str, ...]] = getattr(model, "fused", {})
    prefix, _, last = path.rpartition(".")
    if isinstance(module, Experts):
        for below, part in module.checkpoint_tensors(leaf):
            yield f"{path}.{below}", part
    elif last in fused:
        for part, source in enumerate(fused[last]):
            yield f"{prefix}.{source}.{leaf}", part
    else:
        yield f"{path}.{leaf}", WHOLE if len(getattr(module, "parts", ())) > 1 else 0


def parts_of(targets: dict[str, Target]) -> dict[str, dict[int, str]]:
    """For every parameter its parts, each with the usual name of the tensor that fills it."""
    parts: dict[str, dict[int, str]] = {}
    for name, target in targets.items():
        known = parts.setdefault(target.name, {})
        if target.part != WHOLE or not known:  # where single parts may come, they are what is asked for
            known.setdefault(target.part, name)
    return parts


def read_checkpoint(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the folder's safetensors files, one at a time, with a progress bar if that takes a while."""
    files = checkpoint_files(folder)
    size = sum(file.stat().st_size for file in files)
    with _progress(f"Loading {folder.name}", size) as advance:
        for file in files:
            try:
                with safe_open(file, framework="pt") as reader:
                    for name in reader.keys():  # noqa: SIM118 (a safe_open is no dict)
                        tensor = reader.get_tensor(name)
                        advance(tensor.numel() * tensor.itemsize)
                        yield name, tensor
            except SafetensorError as error:
                raise ValueError(f"{file} is damaged or cut short ({error}); fetch it again") from None


def checkpoint_files(folder: Path) -> list[Path]:
    """What the index names, or model.safetensors, or all there are but Mistral's own form of the same weights.

    FileNotFoundError names what is missing.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if not index.exists():
        every = [file for file in sorted(folder.glob("*.safetensors")) if not file.name.startswith("consolidated")]
        files = [single] if single.exists() else every
        if not files:
            raise FileNotFoundError(f"{folder} holds no *.safetensors file in Hugging Face's form; others are not read")
        return files
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} is no index: it must be JSON with a 'weight_map' from tensor to file")
    names = sorted(set(places.values()))
    if lacking := [name for name in names if not (folder / name).exists()]:
        raise FileNotFoundError(f"{index} names {', '.join(lacking)}, which {folder} does not hold")
    return [folder / name for name in names]


def _listing(title: str, names: list[str]) -> str:
    shown = "".join(f"\n    {name}" for name in names[:8])
    more = f"\n    and {len(names) - 8} more" if len(names) > 8 else ""
    return f"\n  {title}:{shown}{more}" if names else ""


class _progress:
    """A progress bar for big checkpoints, nothing for small ones. Enters as ``advance(bytes)``."""

    def __init__(self, title: str, size: int) -> None:
        self.title, self.size = title, size
        self.bar: Any = None

    def __enter__(self) -> Any:
        if self.size < PROGRESS_FROM:
            return lambda _bytes: None
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn(),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        task = self.bar.add_task(self.title, total=self.size)
        self.bar.start()
        return lambda count: self.bar.advance(task, count)

    def __exit__(self, *_exc: object) -> None:
        if self.bar:
            self.bar.stop()
