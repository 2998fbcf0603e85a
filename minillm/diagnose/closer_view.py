"""Looking closer at a comparison: by how much each side turned a pair of numbers, and what it made of them by its
activation."""

import math

import torch
from rich.console import RenderableType
from torch import Tensor

from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.diagnose.compare import Comparison


def turned_pairs(found: Comparison, layer: int = 0, positions: int = 5) -> Drawing:
    """For the first positions, the angle of a head's first pair before and after it is turned, on both sides."""
    before, after = found.at(layer, "self_attn.q_proj"), found.at(layer, "self_attn.q_rope")
    start, ours, theirs = (first_angle(rows, after.head_dim) for rows in (before.theirs, after.ours, after.theirs))
    titles = ("position", "before", "ours, after", "turned by", "theirs, after", "turned by")

    def drawn(canvas: Canvas) -> RenderableType:
        rows: list[Cells] = []
        for i, position in enumerate(after.positions[:positions]):
            cells = [f"{start[i]:.2f}"]
            for side in (ours, theirs):
                cells += [f"{side[i]:.2f}", f"{between(start[i], side[i]):+.2f}"]
            rows.append([str(position), *cells])
        return table(canvas, [Col(title, "right", wraps=True) for title in titles], rows)

    return Drawing(drawn)


def first_angle(rows: Tensor, head_dim: int) -> list[float]:
    """``rows [n, H * D]``: for each, the angle of the pair of numbers 0 and D / 2 of its first head, in radians."""
    return torch.atan2(rows[:, head_dim // 2], rows[:, 0]).tolist()


def between(start: float, end: float) -> float:
    """The shorter way from one angle to another, in ``[-pi, pi]``; what is 0 but for rounding is 0."""
    return round(math.remainder(end - start, 2 * math.pi), 4) + 0.0


def activation_points(found: Comparison, into: str, out: str, layer: int = 0, points: int = 7) -> Drawing:
    """Some numbers that go into the activation, from the smallest to the largest, and what each side makes of them.

    into, out: the places before and after it.
    """
    before, after = found.at(layer, into), found.at(layer, out)
    order = before.theirs[0].argsort()
    picked = order[torch.linspace(0, len(order) - 1, points).long()]

    def drawn(canvas: Canvas) -> RenderableType:
        rows: list[Cells] = [
            [f"{float(side[0, channel]):.3f}" for side in (before.theirs, after.ours, after.theirs)]
            for channel in picked.tolist()
        ]
        return table(canvas, [Col(title, "right") for title in ("x", "ours", "theirs")], rows)

    return Drawing(drawn)
