"""What each expert took to: how often the router of each layer chose it, for each kind of text."""

import torch
from nano.kinds import Sample
from nano.tokenizer import PAD_ID
from transformers import PreTrainedModel

BATCH = 32


@torch.inference_mode()
def routes(model: PreTrainedModel, rows: list[Sample]) -> list[torch.Tensor]:
    """Which experts every layer gives every token: for each row [L, T, K].

    Everything said of experts comes from here: whatever else can watch the routers takes this function's place.
    """
    found: dict[int, torch.Tensor] = {}
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].ids))
    for start in range(0, len(rows), BATCH):
        numbers = order[start : start + BATCH]
        longest = len(rows[numbers[-1]].ids)
        # Padded on the right, where a causal model cannot see it.
        ids = torch.tensor([rows[number].ids + [PAD_ID] * (longest - len(rows[number].ids)) for number in numbers])
        out = model(ids.to(model.device), use_cache=False, output_router_logits=True)
        logits = torch.stack(list(out.router_logits))  # [L, B * T, E]
        chosen = logits.topk(model.config.num_experts_per_tok, dim=-1).indices.cpu()  # [L, B * T, K]
        chosen = chosen.view(len(logits), len(numbers), longest, -1)
        found |= {number: chosen[:, at, : len(rows[number].ids)] for at, number in enumerate(numbers)}
    return [found[number] for number in range(len(rows))]


def expert_counts(rows: list[Sample], chosen: list[torch.Tensor], kinds: list[str], num_experts: int) -> torch.Tensor:
    """How many tokens of each kind each expert was given. `chosen`: what `routes` says -> [L, E, kinds], integers."""
    counts = torch.zeros(len(chosen[0]), num_experts, len(kinds), dtype=torch.long)
    for row, layers in zip(rows, chosen):
        kind_of = torch.tensor([kinds.index(kind) for kind in row.kinds])  # [T]
        for layer, experts in enumerate(layers):  # [T, K]
            cells = experts * len(kinds) + kind_of[:, None]  # [T, K]
            counts[layer] += cells.flatten().bincount(minlength=counts[layer].numel()).view_as(counts[layer])
    return counts


def describe_experts(model: PreTrainedModel, rows: list[Sample]) -> dict:
    """For evaluation.json: the kinds, their numbers of tokens, and `counts` [layer][expert][kind]."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.kinds))
    tokens = [sum(row.kinds.count(kind) for row in rows) for kind in kinds]
    counts = expert_counts(rows, routes(model, rows), kinds, model.config.num_experts)
    return {"kinds": kinds, "tokens": tokens, "counts": counts.tolist()}


def shares_of(experts: dict) -> torch.Tensor:
    """Of each kind's tokens, the share that each expert was given: [L, E, kinds]; over all experts, K."""
    return torch.tensor(experts["counts"]).float() / torch.tensor(experts["tokens"]).float()


def apart(shares: torch.Tensor) -> torch.Tensor:
    """How differently kinds are routed: [L, E, kinds] -> [L], 0 to 1.

    For a kind: the share of its choices that would have to change for it to be routed as the mean kind is. Then the
    mean over kinds.
    """
    of_choices = shares / shares.sum(dim=1, keepdim=True)  # [L, E, kinds]
    away = (of_choices - of_choices.mean(dim=2, keepdim=True)).abs().sum(dim=1) / 2  # [L, kinds]
    return away.mean(dim=1)


def active_parameters(model: PreTrainedModel) -> int:
    """Parameters that one token meets: all but the experts it is not given."""
    config = model.config
    total = sum(parameter.numel() for parameter in model.parameters())
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    return total - experts * (config.num_experts - config.num_experts_per_tok) // config.num_experts
