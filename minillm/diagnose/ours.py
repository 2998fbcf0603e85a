"""Watching our engine compute: modules through forward hooks, what lies between them through probes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from minillm.config import EngineConfig
from minillm.diagnose.places import (
    CLOSING,
    ENTERED,
    K_NORM,
    K_ROPE,
    LOGITS,
    MLP_STREAM,
    Q_NORM,
    Q_ROPE,
    STREAM,
    Observation,
    Place,
    place_of,
    rows_of,
)
from minillm.engine.engine import Engine
from minillm.probe import Event, listen
from minillm.request import SamplingParams

PROBES = (
    "batch.build", "layer.attention", "kv.store", "attention.attend", "layer.mlp", "model.norm", "model.logits",
    "sampler.logits",
)  # fmt: skip


def observe_engine(title: str, settings: dict[str, Any], prompt_ids: list[int], decode: int) -> Observation:
    """Run the prompt and ``decode`` steps after it, greedily, on an engine with these settings; what was seen."""
    return observe(title, Engine(EngineConfig.from_settings(**settings)), prompt_ids, decode)


def observe(title: str, engine: Engine, prompt_ids: list[int], decode: int = 0) -> Observation:
    """The same on an engine that is there already, and idle."""
    watch = Watch(Observation(title), engine.model)
    with listen(PROBES, watch.event), watch.hooks(engine.model):
        watch.seen.token_ids = run(engine, prompt_ids, decode)
    watch.seen.num_prompt = len(prompt_ids)
    return watch.seen


def run(engine: Engine, prompt_ids: list[int], decode: int) -> list[int]:
    """The tokens that were computed: the prompt, and each sampled one but the last."""
    params = SamplingParams(temperature=0, max_tokens=decode + 1, ignore_eos=True)
    request = engine.add_request(prompt_ids, params)
    while engine.has_requests:
        engine.step()
    return [*request.prompt_ids, *request.output_ids[:-1]]


class Watch:
    """Notes tensors under their place and positions. One request runs, so a step's tokens are all its own."""

    def __init__(self, seen: Observation, model: nn.Module) -> None:
        self.seen = seen
        self.fused: dict[str, tuple[str, ...]] = getattr(model, "fused", {})
        self.embedding_scale: float = getattr(model, "embedding_scale", 1.0)  # Hugging Face's embedding scales itself
        self.with_q_norm = {place_of(path) for path, _ in model.named_modules() if path.endswith(Q_NORM)}
        seen.spelling = getattr(model, "spelling", {})
        self.positions: list[int] = []  # of this step's tokens
        self.sampled: list[int] = []  # of those whose logits are wanted

    def note(self, place: Place, value: Any, earlier: float = 0) -> None:
        self.seen.add(place, self.positions, rows_of(value, len(self.positions)), earlier)

    def event(self, event: Event) -> None:
        values = event.values
        match event.name:
            case "batch.build":
                self.positions = event.batch.positions.tolist()
            case "layer.attention":  # the norm, seen just before, had taken up what the last layer adds
                self.note(Place(event.layer, STREAM), event.stream, earlier=1.5)
            case "kv.store":  # one kernel has normalised all heads: no module of ours was called for it
                if Place(event.layer, Q_NORM) in self.with_q_norm:
                    self.note(Place(event.layer, Q_NORM), event.q)
                    self.note(Place(event.layer, K_NORM), event.k)
            case "attention.attend" if event.batch.rope[0].shape[1]:  # else nothing is turned
                self.note(Place(event.layer, Q_ROPE), event.q)
                self.note(Place(event.layer, K_ROPE), event.k)
            case "layer.mlp":
                self.note(Place(event.layer, MLP_STREAM), event.stream, earlier=1.5)
            case "model.norm":
                added = values.get("add")
                self.note(Place(None, STREAM), event.stream if added is None else event.stream + added)
            case "model.logits":
                self.sampled = [row.start + row.count - 1 for row in event.rows]
            case "sampler.logits":
                self.seen.add(LOGITS, self.sampled, rows_of(event.logits, len(self.sampled)))

    @contextmanager
    def hooks(self, model: nn.Module) -> Iterator[None]:
        """Note the output of every module that has a place; taken away at the end."""
        handles = []
        for path, module in model.named_modules():
            place = place_of(path, has_children=any(True for _ in module.children()))
            if place is None:
                continue
            parts = self.fused.get(path.rpartition(".")[2])
            if place.name.endswith(ENTERED):
                source = Place(place.layer, f"{place.name} input")
                handles.append(module.register_forward_pre_hook(lambda _m, args, at=source: self.note(at, args)))
            if parts:
                handles.append(module.register_forward_hook(self._split(place, parts)))
            elif not place.name.endswith(CLOSING):
                handles.append(module.register_forward_hook(self._whole(place)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _whole(self, place: Place) -> Any:
        """A hook that notes a module's output ``[T, N]``."""
        scale = self.embedding_scale if place.name == "embed_tokens" else 1.0

        def hook(_module: nn.Module, _args: Any, out: Any) -> None:
            self.note(place, out if scale == 1 else out * scale)

        return hook

    def _split(self, place: Place, names: tuple[str, ...]) -> Any:
        """A hook that takes a fused layer's output ``[T, N]`` apart, as the checkpoint has its parts."""
        prefix = place.name.rpartition(".")[0]

        def hook(module: nn.Module, _args: Any, out: Tensor) -> None:
            sizes: list[int] = module.parts  # type: ignore[assignment]
            for name, part in zip(names, out.split(sizes, dim=-1)):
                self.note(Place(place.layer, f"{prefix}.{name}"), part)

        return hook
