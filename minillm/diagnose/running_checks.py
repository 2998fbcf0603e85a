"""Checks of the loaded model: where its parameters lie, and whether tokens see what they may see and nothing else."""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from minillm.config import EngineConfig
from minillm.diagnose.compared import difference
from minillm.diagnose.findings import Finding, ok, some, warn, wrong
from minillm.diagnose.ours import observe
from minillm.diagnose.places import Observation
from minillm.engine.engine import Engine
from minillm.model_config import ModelConfig
from minillm.request import SamplingParams

LENGTH, TOLERANCE = 24, 1e-3


class Patient:
    """A checkpoint in a running engine of a short context, in the dtype that the engine chooses here."""

    def __init__(self, folder: Path) -> None:
        config = ModelConfig.from_folder(folder)
        self.vocab_size = config.vocab_size
        length = min(4 * LENGTH, config.max_position_embeddings)
        # A prefix that is found in the cache is not computed, and so not seen.
        self.engine = Engine(EngineConfig(model=str(folder), max_model_len=length, prefix_cache="none"))
        self.length = min(LENGTH, length // 2)

    def prompt(self, seed: int, last: int = 0) -> list[int]:
        """Token ids from all over the vocabulary; ``last`` changes the last one."""
        ids = [(seed * 7919 + i * 104729) % self.vocab_size for i in range(self.length)]
        return [*ids[:-1], (ids[-1] + last) % self.vocab_size]

    @cached_property
    def seen(self) -> Observation:
        return observe("a prompt", self.engine, self.prompt(1), decode=2)


def placed(patient: Patient) -> Finding:
    """Every tensor of the model on the engine's device, in its dtype; none without memory."""
    kinds: Counter[str] = Counter()
    names: dict[str, list[str]] = {}
    for name, tensor in all_tensors(patient.engine.model):
        kind = f"{tensor.device} {str(tensor.dtype).removeprefix('torch.')}"
        kinds[kind] += 1
        names.setdefault(kind, []).append(name)
    engine, usual = patient.engine, kinds.most_common(1)[0][0]
    odd = [f"{name} ({kind})" for kind, those in names.items() if kind != usual for name in those]
    device = engine.device if engine.device.type == "cpu" else f"{engine.device.type}:"
    if lost := [name for kind, those in names.items() if not kind.startswith(str(device)) for name in those]:
        return wrong(
            f"not on {engine.device}: {some(lost)}", "every forward pass fails or copies: move them on loading"
        )
    if odd:
        return warn(f"{kinds[usual]} of {kinds.total()} tensors on {usual}, odd: {some(odd)}", "is that meant?")
    return ok(f"all {kinds.total()} tensors on {usual}")


def all_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers, and what layers keep beside them (packed weights, tables of cos and sin)."""
    for path, module in model.named_modules():
        for held in (module._parameters, module._buffers, vars(module)):
            for name, value in held.items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    yield f"{path}.{name}", value


def finite(patient: Patient) -> Finding:
    """Nothing on the way from embedding to logits is NaN or infinite."""
    for place in patient.seen.places():
        positions, rows = patient.seen.at(place)
        bad = ~rows.isfinite().all(dim=1)
        if bad.any():
            first = positions[int(bad.nonzero()[0])]
            return wrong(
                f"first at {place}, position {first}",
                "the layer's weights, or a dtype too small: see the check of NaN, infinity",
            )
    return ok(f"{len(patient.seen.pieces)} places from the embedding to the logits")


def causal(patient: Patient) -> Finding:
    """The mask: another last token changes nothing before it."""
    other = observe("another last token", patient.engine, patient.prompt(1, last=1), decode=0)
    for place in patient.seen.places():
        if place not in other.pieces:
            continue
        (at, mine), (at_other, theirs) = patient.seen.at(place), other.at(place)
        before = len([position for position in at if position in {*at_other} and position < patient.length - 1])
        if before and float((apart := difference(mine[:before], theirs[:before])).max()) > TOLERANCE:
            row = int(apart.max(dim=1).values.gt(TOLERANCE).nonzero()[0])
            return wrong(f"{place}: position {at[row]} sees a later token", "the attention mask is not causal")
    return ok("a changed last token changes nothing before it")


def apart(patient: Patient) -> Finding:
    """Requests of one batch do not see each other, and a page that was used before leaves nothing behind."""
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    alone = answers(patient.engine, [patient.prompt(2)], params)[0]
    together = answers(patient.engine, [patient.prompt(3), patient.prompt(2), patient.prompt(4)[:5]], params)[1]
    if alone != together:
        return wrong(
            f"alone a request answers {alone}, beside others {together}",
            "requests see each other's keys: compare with --against max_num_seqs=1 (bf16 rounding can do it, too)",
        )
    return ok("a request answers the same alone and beside others")


def answers(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> list[list[int]]:
    requests = [engine.add_request(prompt, params) for prompt in prompts]
    while engine.has_requests:
        engine.step()
    return [request.output_ids for request in requests]


CHECKS = [("parameters", placed), ("values", finite), ("causal mask", causal), ("batch mask", apart)]
