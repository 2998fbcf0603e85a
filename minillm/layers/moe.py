"""Mixture of experts (Shazeer et al. 2017): many feed-forward networks, of which each token goes through a few.

A small linear layer, the router, scores the experts for each token; the best ``k`` compute it, and their outputs are
added up by weight. Rows are first sorted by expert, so that an expert multiplies all of its tokens at once and its
weights are read once, however many requests the tokens belong to.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minillm.attention.batch import ForwardBatch
from minillm.layers.build import LayerBuild
from minillm.layers.experts import Experts
from minillm.model_config import ModelConfig
from minillm.probe import probe


@dataclass(frozen=True)
class MoeShape:
    """How many experts there are, how many of them compute a token, how wide each is, and whether the weights of those
    that do are scaled to add up to one."""

    num_experts: int
    top_k: int
    intermediate_size: int
    renormalise: bool

    def __post_init__(self) -> None:
        for name in ("num_experts", "top_k", "intermediate_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"config.json: a mixture of experts with {name} {value!r}; it must be at least 1")
        if self.top_k > self.num_experts:
            raise ValueError(
                f"config.json: num_experts_per_tok is {self.top_k}, but there are only {self.num_experts} experts"
            )


class Router(nn.Module):
    """``weight [E, H]``: a score for each expert. Small, so every rank holds all of it, and it is never quantised."""

    def __init__(self, hidden: int, num_experts: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden, dtype=dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[T, H]`` -> ``[T, E]``."""
        return F.linear(x, self.weight)


class MixtureOfExperts(nn.Module):
    """Stands where a dense model has its feed-forward network."""

    # A layer that looks, on the host, at what the device has computed says so by this name: it cannot be recorded.
    reads_on_host = "a mixture of experts works out on the host which experts run"

    def __init__(self, config: ModelConfig, shape: MoeShape, layer: int, build: LayerBuild) -> None:
        super().__init__()
        self.layer, self.shape, self.group = layer, shape, build.group
        self.hidden_size = config.hidden_size
        self.gate = Router(config.hidden_size, shape.num_experts, build.dtype)
        inner, act = shape.intermediate_size, config.hidden_act
        self.experts = Experts(shape.num_experts, config.hidden_size, inner, act, build.at("experts"))

    def forward(self, x: Tensor, batch: ForwardBatch) -> Tensor:
        """``[T, H]`` -> ``[T, H]``: each token's best experts, added up by weight."""
        logits = self.gate(x)  # [T, E]
        weights, experts = route(logits, self.shape.top_k, self.shape.renormalise)  # [T, k] each
        probe.on and probe(
            "moe.route", moe=self, layer=self.layer, logits=logits, weights=weights, experts=experts, batch=batch
        )
        outputs = self.compute(x, experts)  # [T, k, H]
        return self.group.all_reduce((weights[:, None] @ outputs)[:, 0])

    def compute(self, x: Tensor, experts: Tensor) -> Tensor:
        """``x [T, H]``, ``experts [T, k]`` -> ``[T, k, H]``: what each chosen expert makes of its token."""
        T, k = experts.shape
        if T == 1:  # one request's decode: each of its experts gets the one row, and there is nothing to sort
            return torch.stack([self.compute_one(x, expert) for expert in experts[0].tolist()], dim=1)
        order, counts = group_by_expert(experts, self.shape.num_experts)
        used = [expert for expert, count in enumerate(counts) if count]
        rows = x[order // k]  # [T * k, H]: choice t * k + j is of token t
        for expert, mine in zip(used, rows.split([counts[expert] for expert in used])):
            mine.copy_(self.compute_one(mine, expert))  # what an expert makes of its rows takes their place
        outputs = torch.empty_like(rows)
        outputs[order] = rows
        return outputs.view(T, k, -1)

    def compute_one(self, rows: Tensor, expert: int) -> Tensor:
        """One expert's rows ``[n, H]`` -> ``[n, H]``."""
        probe.on and probe("moe.expert", layer=self.layer, expert=expert, rows=rows)
        return self.experts(rows, expert)

    @property
    def parameters_left_out(self) -> int:
        """How many of its parameters a token does not meet: the matrices of the experts that it is not given."""
        shape = self.shape
        return (shape.num_experts - shape.top_k) * 3 * self.hidden_size * self.experts.inner

    @property
    def numbers_per_token(self) -> int:
        """The most numbers that `forward` holds for each token at once: a row for each of its experts, sorted and
        put back; and what one expert computes, which may be the one of all tokens."""
        shape, hidden = self.shape, self.hidden_size
        return 2 * shape.top_k * hidden + 3 * self.experts.inner + hidden + 2 * shape.num_experts


def route(logits: Tensor, top_k: int, renormalise: bool) -> tuple[Tensor, Tensor]:
    """Which experts compute each token, and by what weight their outputs are added up.

    ``logits [T, E]`` -> weights ``[T, k]`` of the logits' dtype, experts ``[T, k]`` int64, the likeliest first. The
    weights are the experts' probabilities: a softmax over all E, in float32. With ``renormalise`` the k that were
    chosen are scaled so that they add up to one.
    """
    probs = torch.softmax(logits, dim=-1, dtype=torch.float32)  # [T, E]
    weights, experts = probs.topk(top_k, dim=-1)  # [T, k]
    if renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights.to(logits.dtype), experts


def group_by_expert(experts: Tensor, num_experts: int) -> tuple[Tensor, list[int]]:
    """Sort the step's choices by expert, so that each expert's rows lie together.

    ``experts [T, k]``: token t's choice j is choice number ``t * k + j``. -> order ``[T * k]`` int64: the numbers of
    expert 0's choices, then expert 1's, and so on, each expert's in rising order; and how many choices each of the E
    experts got, as a list of ints.
    """
    flat = experts.flatten()  # [T * k]
    return flat.argsort(stable=True), torch.bincount(flat, minlength=num_experts).tolist()
