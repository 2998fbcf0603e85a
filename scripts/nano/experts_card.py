"""The model card's section on experts: who took to what."""

import torch
from nano.experts import apart, shares_of
from nano.kinds import CODE, TOPIC

SECTION = """
## What each expert took to

Measured on {tokens:,} tokens: conversations about every glossary entry (by topic: the glossary's files), off-topic
ones, and held-out library files, where each token counts by its role in Python. A token is given 2 of 8 experts, so an
expert that took no interest would be given 25 % of every kind. For each expert the kind it was given most of, and how
much (the glossary as one kind); then the least and the most used expert of the layer; then how far apart kinds are
routed (the share of a kind's choices that would have to change for it to be routed as the mean kind is), for all kinds
and for the glossary's topics alone.

{layers}

Layer {layer} in full, where kinds are furthest apart: the share of each kind's tokens that each expert was given.

{kinds}

On average over layers, kinds are {all_apart:.0%} apart and the glossary's topics {topics_apart:.0%}: experts divide
text by the part that a token plays in it far more than by what it is about. No one told them these kinds. All layers'
counts are in `evaluation.json`.
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_one_glossary(experts: dict) -> tuple[list[str], torch.Tensor]:
    """The kinds with all topics as one, and their shares [L, E, kinds]."""
    names = [TOPIC.strip(": ") if name.startswith(TOPIC) else name for name in experts["kinds"]]
    kinds = list(dict.fromkeys(names))
    of = torch.tensor([kinds.index(name) for name in names])
    counts, tokens = torch.tensor(experts["counts"]), torch.tensor(experts["tokens"])
    pooled = torch.zeros(*counts.shape[:2], len(kinds), dtype=counts.dtype).index_add_(2, of, counts)
    totals = torch.zeros(len(kinds), dtype=tokens.dtype).index_add_(0, of, tokens)
    return kinds, pooled / totals


def experts_section(experts: dict) -> str:
    """From evaluation.json's `experts`."""
    shares, names = shares_of(experts), experts["kinds"]
    distances = apart(shares)  # [L]
    topics = apart(shares[..., [kind for kind, name in enumerate(names) if name.startswith(TOPIC)]])  # [L]
    taken = [[sum(kinds) for kinds in layer] for layer in experts["counts"]]
    total = sum(experts["tokens"])
    numbers = [f"expert {number}" for number in range(shares.shape[1])]
    few, few_shares = with_one_glossary(experts)
    rows = []
    for layer, by_expert in enumerate(few_shares):
        favourites = [f"{few[kinds.argmax()].removeprefix('code: ')} {kinds.max():.0%}" for kinds in by_expert]
        used = f"{min(taken[layer]) / total:.0%} to {max(taken[layer]) / total:.0%}"
        rows.append([str(layer), *favourites, used, f"{distances[layer]:.0%}, {topics[layer]:.0%}"])
    layer = int(distances.argmax())
    order = sorted(range(len(names)), key=lambda kind: (names[kind] not in CODE, names[kind]))
    full = [
        [names[kind], f"{experts['tokens'][kind]:,}", *(f"{share:.0%}" for share in shares[layer, :, kind])]
        for kind in order
    ]
    return SECTION.format(
        tokens=total,
        layers=table(["layer", *numbers, "used", "apart"], rows),
        layer=layer,
        all_apart=distances.mean().item(),
        topics_apart=topics.mean().item(),
        kinds=table(["kind", "tokens", *numbers], full),
    )
