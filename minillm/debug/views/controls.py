"""What sampling's controls do: candidates before and after one, the surprises of an answer, a grammar's choices."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from minillm.debug.views.candidates import probabilities, share
from minillm.debug.views.compare import bar_text
from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import GREEN, SKY, STYLES
from minillm.debug.views.tokens import quoted
from minillm.debug.views.units import number

if TYPE_CHECKING:
    from torch import Tensor

    from minillm.request import Request
    from minillm.text.tokenizer import Tokenizer


class Surprise(NamedTuple):
    """One token of an answer: its text, its probability and rank among all, and what was likelier than all others."""

    text: str
    probability: float
    rank: int
    likeliest: str
    its_probability: float


class Choice(NamedTuple):
    """One token under a grammar: how many tokens it allowed, and the text of the one that was chosen."""

    allowed: int
    text: str


def said(canvas: Canvas, text: str, most: int = 24) -> str:
    """A token in quotes; on a plain console other letters than ASCII's as Python writes them."""
    shown = quoted(text, most)
    return shown.encode("ascii", "backslashreplace").decode() if canvas.ascii else shown


def changed(before: "Tensor", after: "Tensor", tokenizer: "Tokenizer", k: int = 6) -> Drawing:
    """The ``k`` likeliest tokens of a row of logits or probabilities ``[V]``, before and after a control.

    In the order of before; who comes in only after it stands below. A token whose share fell a lot is marked.
    """
    old, new = probabilities(before), probabilities(after)
    best = old.topk(k).indices.tolist()
    best += [id for id in new.topk(k).indices.tolist() if id not in best and new[id] > 0][: k // 2]
    facts = [(tokenizer.token(id), float(old[id]), float(new[id])) for id in best]
    left, total = int((new > 0).sum()), len(new)
    columns = [Col("token"), Col("before", "right"), Col("", spare=2), Col("after", "right"), Col("", spare=1), Col("")]

    def draw(canvas: Canvas) -> Group:
        width = 16 if canvas.width >= 76 else 6
        rows: list[Cells] = []
        for text, p, q in facts:
            fell = Text("out", STYLES["warn"]) if q == 0 else Text("less", STYLES["warn"]) if q < p / 2 else Text()
            bars = [bar_text(canvas, value, 1.0, width, hue) for value, hue in ((p, SKY), (q, GREEN))]
            rows.append([said(canvas, text), share(p), bars[0], share(q), bars[1], fell])
        end = f"{number(left)} of {number(total)} tokens can be drawn"
        return Group(table(canvas, columns, rows), Text(), Text(end, STYLES["note"]))

    return Drawing(draw)


def surprises_of(request: "Request", tokenizer: "Tokenizer") -> list[Surprise]:
    """What the model thought of each token that a request with logprobs=1 has written."""
    token = tokenizer.token
    return [
        Surprise(token(id), math.exp(logprob), rank, token(best), math.exp(its))
        for (id, logprob, rank), (best, its, _) in request.logprobs or ()
    ]


def surprises(rows: Sequence[Surprise]) -> Drawing:
    """Each token of an answer with its probability and rank, and for those that were not the likeliest, which was."""
    columns = [Col("token"), Col("probability", "right"), Col("", spare=2), Col("rank", "right")]
    columns.append(Col("likeliest was", spare=1))

    def draw(canvas: Canvas) -> Table:
        cells: list[Cells] = []
        for row in rows:
            style = STYLES["warn"] if row.probability < 0.01 else ""
            other = "" if row.rank == 1 else f"{said(canvas, row.likeliest)} {share(row.its_probability)}"
            length = bar_text(canvas, row.probability, 1.0, 16 if canvas.width >= 76 else 6)
            token, rank = Text(said(canvas, row.text), style), Text(number(row.rank), style)
            cells.append([token, share(row.probability), length, rank, other])
        return table(canvas, columns, cells)

    return Drawing(draw)


def choices(rows: Sequence[Choice], vocabulary: int) -> Drawing:
    """The tokens of an answer under a grammar. Tokens in a row of which each was the only one allowed share a line."""
    lines: list[tuple[str, str, float]] = []
    for forced, group in groupby(rows, key=lambda row: row.allowed == 1):
        several = list(group)
        if forced:
            each = "1" if len(several) == 1 else "1 each"
            lines.append((each, "".join(row.text for row in several), 1.0))
        else:
            lines += [(number(row.allowed), row.text, row.allowed) for row in several]
    columns = [Col("allowed", "right"), Col("", spare=1), Col("chosen", wraps=True)]

    def draw(canvas: Canvas) -> Table:
        width = 24 if canvas.width >= 76 else 8
        cells: list[Cells] = [
            [count, bar_text(canvas, allowed, vocabulary, width), said(canvas, text, 40)]
            for count, text, allowed in lines
        ]
        return table(canvas, columns, cells)

    return Drawing(draw)
