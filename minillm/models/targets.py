"""Where each of a checkpoint's tensors goes in a model: which parameter, and which part of it."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from minillm.layers.experts import ExpertStack
from minillm.layers.shards import WHOLE, Sharded
from minillm.probe import probe


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
    def path(self) -> str:
        """The module's, as model.layers.0.mlp.down_proj."""
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """What the module itself calls the parameter."""
        return self.name.rpartition(".")[2]

    @property
    def shape(self) -> list[int]:
        """What the checkpoint's tensor must look like: whole, not this rank's shard."""
        if isinstance(self.module, Sharded):
            return self.module.checkpoint_shape(self.leaf, self.part)
        return list(self.parameter.shape)

    def load(self, tensor: Tensor) -> None:
        probe.on and probe("weights.tensor", target=self, path=self.path, tensor=tensor)
        if isinstance(self.module, Sharded):
            self.module.load(self.leaf, tensor, self.part)
        else:
            self.parameter.data.copy_(tensor)


def checkpoint_targets(model: nn.Module) -> dict[str, Target]:
    """The checkpoint's tensor names, each with its place. Several names may mean one place: the usual one is first.

    Fused parameters stand for several names, listed by the model (``fused``) or by the layer (`ExpertStack`). Where a
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
    if isinstance(module, ExpertStack):
        for below, part in module.checkpoint_tensors(leaf):
            yield f"{prefix}.{below}", part
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
