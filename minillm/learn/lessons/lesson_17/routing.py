"""How each layer's router sent the tokens of a step to experts."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from minillm.debug.experts import ExpertTracker
from minillm.debug.views.router_table import Routed
from minillm.layers.moe import MixtureOfExperts
from minillm.llm import LLM
from minillm.probe import Event, listen
from minillm.sampling_params import SamplingParams


@dataclass
class Routing:
    """One layer's routing of one step: the router's scores [T, E], each token's experts and weights [T, k]."""

    moe: MixtureOfExperts
    layer: int
    logits: Tensor
    experts: Tensor
    weights: Tensor

    def of(self, t: int) -> Routed:
        """One token's."""
        probs = self.logits[t].float().softmax(dim=-1).tolist()
        return Routed(self.layer, probs, self.experts[t].tolist(), self.weights[t].tolist())


def note_routes(found: list[Routing]) -> Callable[[Event], None]:
    """A listener for moe.route that keeps a copy of what comes by."""

    def note(event: Event) -> None:
        tensors = (event.values[name].cpu() for name in ("logits", "experts", "weights"))
        found.append(Routing(event.moe, event.layer, *tensors))

    return note


def compute(llm: LLM, prompt_ids: list[int], max_tokens: int = 1) -> list[Routing]:
    """Run one prompt; how each layer routed it, step after step."""
    found: list[Routing] = []
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    with listen("moe.route", note_routes(found)):
        llm.generate([{"prompt_token_ids": prompt_ids}], params, use_tqdm=False)
    return found


def look_at(llm: LLM, prompt_ids: list[int], layer: int) -> tuple[Routing, list[int], Tensor]:
    """One prompt in one layer: its routing, the rows of each expert that computed, and what went in, [T, hidden]."""
    heard: list[int] = []
    inputs: list[Tensor] = []

    def note(event: Event) -> None:
        if event.layer == layer:
            if event.name == "moe.expert":
                heard.append(len(event.rows))
            else:
                inputs.append(event.hidden.clone())

    with listen(["moe.expert", "layer.mlp"], note):
        (seen,) = (routed for routed in compute(llm, prompt_ids) if routed.layer == layer)
    return seen, heard, inputs[0]


def moe_layers(llm: LLM) -> list[MixtureOfExperts]:
    """The layers that have experts. ValueError if the model that the reader chose has none."""
    ExpertTracker(llm)  # says so
    return [module for module in llm.engine.model.modules() if isinstance(module, MixtureOfExperts)]
