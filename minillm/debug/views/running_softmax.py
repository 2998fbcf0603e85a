"""Softmax in one pass: block after block, what is known so far; and how the parts of several splits become one."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import STYLES
from minillm.debug.views.units import percent


class Block(NamedTuple):
    """One block of tokens, for one query head: the largest of its scores, then the running numbers after it."""

    first: int
    last: int
    largest: float
    top: float
    fix: float
    total: float


class Split(NamedTuple):
    """One split of the context, for one query head; ``weight`` is what its sums are multiplied by."""

    first: int
    last: int
    top: float
    total: float
    weight: float


def running_softmax(blocks: Sequence[Block]) -> Drawing:
    """A row a block. Where the maximum has grown, the row is marked, and ``correction`` says how much that changed."""
    facts = list(blocks)
    titles = ("tokens", "largest score", "running maximum", "correction", "running sum")
    columns = [Col(title, "right", spare=int(title == "largest score")) for title in titles]

    def draw(canvas: Canvas) -> Table:
        rows: list[Cells] = []
        for i, one in enumerate(facts):
            grows = i > 0 and one.fix < 1
            fix = Text("-", STYLES["note"]) if i == 0 else Text(f"x {one.fix:.3f}", "bold" if grows else STYLES["note"])
            top = Text(f"{canvas.marks.arrow + ' ' if grows else ''}{one.top:.2f}", "bold" if grows else "")
            rows.append([_span(one.first, one.last), f"{one.largest:.2f}", top, fix, f"{one.total:.3f}"])
        return table(canvas, columns, rows)

    return Drawing(draw)


def combined(splits: Sequence[Split]) -> Drawing:
    """A row a split: its own maximum and sum, the weight that makes it comparable, its share of the whole sum."""
    facts = list(splits)
    titles = ("split", "tokens", "its maximum", "its sum", "weight", "of the whole")
    columns = [Col(title, "right", spare=int(title == "tokens")) for title in titles]
    whole = sum(one.total * one.weight for one in facts)

    def draw(canvas: Canvas) -> Table:
        rows: list[Cells] = [
            [str(i), _span(one.first, one.last), f"{one.top:.2f}", f"{one.total:.3f}", f"x {one.weight:.3f}",
             percent(one.total * one.weight, whole)]
            for i, one in enumerate(facts)
        ]  # fmt: skip
        return table(canvas, columns, rows)

    return Drawing(draw)


def _span(first: int, last: int) -> str:
    return f"{first}..{last - 1}" if last - first > 1 else str(first)
