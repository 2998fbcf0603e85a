"""How many tokens each cut leaves, of a peaked distribution and of a flat one."""

import torch
from torch import Tensor

from minillm.debug.views.drawing import Drawing
from minillm.debug.views.table import Cells, Col, drawn, numbers
from minillm.sampling.sampler import keep_min_p, keep_top

TEMPERATURES = 1, 2


def tokens_left(peaked: Tensor, flat: Tensor) -> Drawing:
    """Both are logits, ``[V]``: a row a cut, a column a shape and a temperature."""
    everything = torch.tensor([len(peaked)])
    cuts = {
        "top_k=40": lambda p: keep_top(p, torch.tensor([40]), torch.ones(1)),
        "top_p=0.9": lambda p: keep_top(p, everything, torch.tensor([0.9])),
        "min_p=0.1": lambda p: keep_min_p(p, torch.tensor([0.1])),
    }
    probs = [(logits / t).softmax(dim=-1)[None] for logits in (peaked, flat) for t in TEMPERATURES]  # [1, V] each
    rows: list[Cells] = [[name, *(f"{int((cut(p) > 0).sum()):,}" for p in probs)] for name, cut in cuts.items()]
    titles = [f"{shape}, t={t}" for shape in ("peaked", "flat") for t in TEMPERATURES]
    return drawn([Col(""), *numbers(*titles)], rows)
