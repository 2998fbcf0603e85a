"""Attention's way through a page table: which pages each block of tokens lies in, and which slots are read."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.units import ranges


class Read(NamedTuple):
    """A block: its tokens' positions, in order, and the slot of each."""

    positions: list[int]
    slots: list[int]


def page_walk(reads: Sequence[Read], page_size: int, most: int = 8) -> Drawing:
    """A row a block, in the order in which they are read. Of more than ``most`` the middle is left out."""
    facts = list(reads)
    columns = [Col("block", "right", spare=2), Col("tokens", "right")]
    columns += [
        Col("entries of the page table", wraps=True, spare=1),
        Col("pages", wraps=True),
        Col("slots", wraps=True),
    ]

    def cells(number: int) -> Cells:
        positions, slots = facts[number]
        entries = list(dict.fromkeys(position // page_size for position in positions))
        pages = list(dict.fromkeys(slot // page_size for slot in slots))
        tokens = f"{positions[0]}..{positions[-1]}" if len(positions) > 1 else str(positions[0])
        return [str(number), tokens, ranges(entries), ranges(pages), ranges(slots)]

    def draw(canvas: Canvas) -> Table:
        shown = list(range(len(facts)))
        if len(shown) > most:
            shown = [*shown[: most - 1], -1, shown[-1]]
        return table(canvas, columns, [cells(i) if i >= 0 else ["..."] * 5 for i in shown])

    return Drawing(draw)
