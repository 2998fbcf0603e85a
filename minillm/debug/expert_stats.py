"""What is known of an expert, and of a layer of experts, once they were counted."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ExpertStats:
    """One expert of one layer.

    tokens: how many tokens chose it, which is how many it computed. steps: in how many steps at least one did.
    share: of all choices of its layer. mean_weight: what its output counted, on average over its tokens.
    last_step, last_time: when it computed last, None if never. by_request: request id -> tokens.
    """

    layer_id: int
    expert_id: int
    tokens: int
    steps: int
    share: float
    mean_weight: float
    last_step: int | None
    last_time: str | None
    by_request: dict[int, int]


@dataclass(frozen=True)
class LayerStats:
    """One layer: how much was routed, and how evenly.

    tokens, steps: what went through the layer. choices: tokens times experts a token.
    busiest_share: 1 / num_experts if all have equally many, and the more the busiest has, the longer the others wait
    for it. idle_experts: how many were never chosen. entropy: of the shares, in bits; evenness: the same, divided by
    the most that it could be, 1 if all have equally many and 0 if one has all.
    """

    layer_id: int
    num_experts: int
    tokens: int
    steps: int
    choices: int
    busiest_expert: int | None
    busiest_share: float
    idle_experts: int
    entropy: float
    evenness: float


def layer_stats(layer_id: int, counts: np.ndarray, tokens: int, steps: int) -> LayerStats:
    """From ``counts [E]``, the tokens of each expert, of ``tokens`` that went through the layer in ``steps`` steps."""
    choices = int(counts.sum())
    shares = counts / max(choices, 1)
    entropy = float(-sum(share * math.log2(share) for share in shares if share)) + 0.0  # no negative zero
    return LayerStats(
        layer_id,
        len(counts),
        tokens,
        steps,
        choices,
        busiest_expert=int(counts.argmax()) if choices else None,
        busiest_share=float(shares.max()),
        idle_experts=int((counts == 0).sum()),
        entropy=entropy,
        evenness=entropy / math.log2(len(counts)) if len(counts) > 1 else 1.0,
    )
