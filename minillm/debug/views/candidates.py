"""The candidates for the next token, with their probabilities."""

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from minillm.debug.views.compare import bar_text
from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import GREEN, SKY, STYLES
from minillm.debug.views.tokens import quoted
from minillm.debug.views.units import number

if TYPE_CHECKING:
    from torch import Tensor

    from minillm.text.tokenizer import Tokenizer


def probabilities(values: "Tensor") -> "Tensor":
    """``[V]`` logits or probabilities -> ``[V]`` float32 that add up to one.

    Probabilities are known by being nowhere negative and adding up to at most one, as they do after top-k and top-p.
    """
    values = values.detach().flatten().float().cpu()
    total = float(values.sum())
    if bool((values >= 0).all()) and 0 < total < 1.001:
        return values / total
    return values.softmax(-1)


def top_tokens(values: "Tensor", tokenizer: "Tokenizer", k: int = 8, chosen: int | None = None) -> Drawing:
    """The ``k`` likeliest next tokens of one row of logits or probabilities ``[V]``, and the one that was chosen."""
    probs = probabilities(values)
    best = [id for id in probs.topk(min(k, len(probs))).indices.tolist() if probs[id] > 0]
    ranks = {id: rank for rank, id in enumerate(best, 1)}
    if chosen is not None and chosen not in ranks:
        ranks[chosen] = 1 + int((probs > probs[chosen]).sum())
    facts = [(rank, id, quoted(tokenizer.token(id)), float(probs[id])) for id, rank in ranks.items()]
    shown = list(ranks)
    others, rest = int((probs > 0).sum()) - int((probs[shown] > 0).sum()), 1 - float(probs[shown].double().sum())
    titles = Col("", "right"), Col("token"), Col("id", "right", spare=1), Col("probability", "right"), Col(""), Col("")

    def draw(canvas: Canvas) -> Group:
        rows: list[Cells] = []
        width = 24 if canvas.width >= 76 else 6
        for rank, id, text, p in facts:
            mine = id == chosen
            mark = Text(canvas.marks.chosen + (" chosen" if canvas.width >= 60 else ""), STYLES["good"]) if mine else ""
            bold, length = "bold" if mine else "", bar_text(canvas, p, 1.0, width, GREEN if mine else SKY)
            cells = Text(str(rank), STYLES["note"]), Text(text, bold), str(id), Text(share(p), bold), length, mark
            rows.append(list(cells))
        end = f"{number(others)} other tokens together {share(rest)}"
        drawn = table(canvas, titles, rows)
        return Group(drawn, Text(), Text(end, STYLES["note"])) if others else Group(drawn)

    return Drawing(draw)


def share(p: float) -> str:
    """``12.34%``; next to nothing and nearly all are not rounded away."""
    if 0 < p < 0.00005:
        return "<0.01%"
    return ">99.99%" if 0.99995 < p < 1 else f"{100 * max(p, 0.0):.2f}%"
