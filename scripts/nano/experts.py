"""What each expert took to: how often the router of each layer chose it, for each kind of text."""

from collections import defaultdict
from pathlib import Path

import torch
from nano.kinds import Sample
from transformers import PreTrainedModel

from minillm import LLM, SamplingParams
from minillm.probe import Event, listen


def routes(folder: Path, rows: list[Sample], device: str = "cpu") -> list[torch.Tensor]:
    """Which experts every layer gives every token: for each row [L, T, K].

    Everything said of experts comes from here. The engine computes the rows (weights of `folder`, float32), and the
    probe moe.route tells what it chose. A long row may come in chunks, and a step holds chunks of several rows.
    """
    found: dict[int, dict[int, list[torch.Tensor]]] = defaultdict(lambda: defaultdict(list))  # request, layer: [t, K]

    def hear(event: Event) -> None:
        chunks = event.experts.cpu().split(list(event.batch.query_lens))
        for request, experts in zip(event.batch.request_ids, chunks, strict=True):
            found[request][event.layer].append(experts)

    llm = LLM(str(folder), dtype="float32", device=device, prefix_cache="none")
    with listen("moe.route", hear):
        prompts = [{"prompt_token_ids": row.ids} for row in rows]
        llm.generate(prompts, SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)
    return [
        torch.stack([torch.cat(found[request][layer]) for layer in sorted(found[request])]) for request in sorted(found)
    ]


def expert_counts(rows: list[Sample], chosen: list[torch.Tensor], kinds: list[str], num_experts: int) -> torch.Tensor:
    """How many tokens of each kind each expert was given. `chosen`: what `routes` says -> [L, E, kinds], integers."""
    counts = torch.zeros(len(chosen[0]), num_experts, len(kinds), dtype=torch.long)
    for row, layers in zip(rows, chosen):
        kind_of = torch.tensor([kinds.index(kind) for kind in row.kinds])  # [T]
        for layer, experts in enumerate(layers):  # [T, K]
            cells = experts * len(kinds) + kind_of[:, None]  # [T, K]
            counts[layer] += cells.flatten().bincount(minlength=counts[layer].numel()).view_as(counts[layer])
    return counts


def describe_experts(folder: Path, num_experts: int, rows: list[Sample], device: str = "cpu") -> dict:
    """For evaluation.json: the kinds, their numbers of tokens, and `counts` [layer][expert][kind]."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.kinds))
    tokens = [sum(row.kinds.count(kind) for row in rows) for kind in kinds]
    counts = expert_counts(rows, routes(folder, rows, device), kinds, num_experts)
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
