"""The first place where two computations of one model differ: ours beside Hugging Face's, or two settings of ours.

Both compute the same tokens. Each place that has the same meaning on both sides is compared, in the order in which a
forward pass reaches it, so that the first one beyond the tolerance is where the mistake is, and not what it led to.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from minillm.config import ALIASES, EngineConfig
from minillm.diagnose.compared import Compared
from minillm.diagnose.ours import observe_engine
from minillm.diagnose.places import Observation, Place
from minillm.hub import resolve_model
from minillm.model_config import ModelConfig
from minillm.setup import Setup
from minillm.text.tokenizer import Tokenizer

PROMPT = "What is a page of the KV cache, and who holds it?"
# Rows made of heads, one after another.
HEADS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "q_norm", "k_norm", "q_rope", "k_rope", "o_proj input")


@dataclass
class Comparison:
    """All places compared, in order. ``suspect``: settings of the side to stop in: the changed one, or ours.

    shared_tokens: as many tokens as both sides computed alike; where they chose different ones, no later is compared.
    only_ours, only_theirs, unlike: names that could not be compared, being on one side alone or of another size.
    """

    ours: Observation
    theirs: Observation
    tolerance: float
    suspect: dict[str, Any]
    compared: list[Compared] = field(default_factory=list, repr=False)
    shared_tokens: int = 0
    only_ours: list[str] = field(default_factory=list)
    only_theirs: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)

    @property
    def first(self) -> Compared | None:
        """The first place that differs beyond the tolerance."""
        return next((one for one in self.compared if not one.equal), None)

    @property
    def both_are_minillm(self) -> bool:
        return self.theirs.title.startswith(self.ours.title)

    @property
    def same_tokens(self) -> bool:
        return self.ours.token_ids == self.theirs.token_ids

    @property
    def equal(self) -> bool:
        return self.first is None and self.same_tokens

    @property
    def same_choices(self) -> int:
        """How many greedy tokens are the same on both sides, each chosen after the same text."""
        logits = self.at(None, "logits")
        return int((logits.ours.argmax(dim=1) == logits.theirs.argmax(dim=1)).sum())

    def at(self, layer: int | None, name: str) -> Compared:
        """The comparison of one place; KeyError names those that there are."""
        for one in self.compared:
            if one.place == Place(layer, name):
                return one
        raise KeyError(f"{Place(layer, name)} was not compared; compared: {', '.join(self.names())}")

    def names(self) -> list[str]:
        return list(dict.fromkeys(one.place.name for one in self.compared))


def compare(
    model: str = "nano-llama",
    against: str | dict[str, Any] = "hf",
    prompt: str | list[int] = PROMPT,
    settings: dict[str, Any] | None = None,
    tolerance: float = 1e-4,
    decode: int = 0,
) -> Comparison:
    """Run ``model`` under ``settings``, then ``against``: "hf", or settings that replace some of these.

    Both compute ``prompt`` and ``decode`` greedy tokens more. In float32, unless ``settings`` say otherwise: there,
    what is not a mistake is rounding, far below the tolerance.
    """
    folder = resolve_model(model)
    prompt_ids = Tokenizer(folder).encode(prompt) if isinstance(prompt, str) else list(prompt)
    if not prompt_ids:
        raise ValueError("the prompt has no tokens; give it some text, or token ids")
    if decode < 0 or not tolerance >= 0:
        raise ValueError(f"decode is {decode} and tolerance is {tolerance}; both must be 0 or more")
    model_config = ModelConfig.from_folder(folder)
    base = base_settings(model, model_config, len(prompt_ids) + decode + 1, settings or {})
    if isinstance(against, dict):
        other = {**base, **ours_names(against)}
        changed = ", ".join(f"{name}={value}" for name, value in against.items())
        theirs = observe_engine(f"minillm with {changed}", other, prompt_ids, decode)
        ours = observe_engine("minillm", base, prompt_ids, decode)
        return collect(ours, theirs, tolerance, other, model_config.head_dim)
    if against not in ("hf", "huggingface", "transformers"):
        raise ValueError(f"against is {against!r}; it must be 'hf', or settings such as page_size=4 or kernels=torch")
    from minillm.diagnose.huggingface import observe_huggingface

    setup = Setup.of(EngineConfig.from_settings(**base))
    ours = observe_engine("minillm", base, prompt_ids, decode)
    theirs = observe_huggingface(folder, ours.token_ids, len(prompt_ids), setup.dtype, setup.device)
    return collect(ours, theirs, tolerance, base, model_config.head_dim)


def base_settings(model: str, config: ModelConfig, tokens: int, settings: dict[str, Any]) -> dict[str, Any]:
    """float32, and a context that is long enough and no longer: a cache for the model's own may not fit."""
    longest = min(max(tokens, 64), config.max_position_embeddings)
    return {"model": model, "dtype": "float32", "max_model_len": longest, **ours_names(settings)}


def ours_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings under our names, so that one replaces another whatever it was called."""
    return {ALIASES.get(name, name): value for name, value in settings.items()}


def collect(
    ours: Observation, theirs: Observation, tolerance: float, suspect: dict[str, Any], head_dim: int
) -> Comparison:
    """Compare every place that both observed, at the tokens that both computed."""
    found = Comparison(ours, theirs, tolerance, suspect)
    pairs = zip(ours.token_ids, theirs.token_ids)
    apart = next((i for i, (mine, other) in enumerate(pairs) if mine != other), None)
    found.shared_tokens = min(len(ours.token_ids), len(theirs.token_ids)) if apart is None else apart
    only_ours, unlike, met = [], [], set()
    for place in ours.places():
        met.add(other := theirs.known_as(place, ours.spelling))
        if other is None:
            only_ours.append(place.name)
        elif (one := _compare_place(place, other, found, head_dim)) is not None:
            found.compared.append(one)
        else:
            unlike.append(place.name)
    only_theirs = [place.name for place in theirs.places() if place not in met]
    found.only_ours, found.only_theirs, found.unlike = (
        list(dict.fromkeys(names)) for names in (only_ours, only_theirs, unlike)
    )
    if not found.compared:
        raise ValueError(
            f"no place of {ours.title} has its like in {theirs.title}: name the modules as Hugging Face does "
            f"(layers.N.self_attn, layers.N.mlp, ...); ours: {', '.join(found.only_ours) or 'none'}; theirs: "
            f"{', '.join(found.only_theirs) or 'none'}"
        )
    return found


def _compare_place(place: Place, other: Place, found: Comparison, head_dim: int) -> Compared | None:
    """``place`` of ours beside ``other`` of theirs; None if they have different sizes, or no token in common."""
    (mine, a), (others, b) = found.ours.at(place), found.theirs.at(other)
    common = sorted(position for position in {*mine} & {*others} if position < found.shared_tokens)
    if a.shape[1] != b.shape[1] or not common:
        return None
    a = a[torch.isin(torch.tensor(mine), torch.tensor(common))]  # both are in order of position
    b = b[torch.isin(torch.tensor(others), torch.tensor(common))]
    return Compared(place, common, a, b, found.tolerance, head_dim if place.name.endswith(HEADS) else 0)
