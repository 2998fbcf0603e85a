"""Tables that fit: where there is no room, cells wrap, then the least important columns go; no number is ever cut."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing

Cells = list[str | Text]  # a table's row

_ASCII_HEAD = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


class Col(NamedTuple):
    """A table's column. ``wraps``: its cells may break between words; its title always may.

    ``spare``: when there is no room for all, columns with the highest go first, and those with 0 never.
    """

    title: str
    justify: Literal["left", "right", "center"] = "left"
    wraps: bool = False
    spare: int = 0


def numbers(*titles: str) -> list[Col]:
    """Columns of numbers: set to the right."""
    return [Col(title, "right") for title in titles]


def texts(*titles: str) -> list[Col]:
    """Columns of text that may break between words."""
    return [Col(title, wraps=True) for title in titles]


def drawn(columns: Sequence[Col], rows: Sequence[Cells]) -> Drawing:
    """A table, for a console that is not known yet."""
    return Drawing(lambda canvas: table(canvas, columns, rows))


def table(canvas: Canvas, columns: Sequence[Col], rows: Sequence[Cells]) -> Table:
    """A quiet table: a line under the head, nothing else. Each row has a cell for every column, shown or not."""
    gap = 3 if canvas.width >= 100 else 2
    widths = _widths(columns, rows, canvas.width, gap)
    made = Table(
        box=_ASCII_HEAD if canvas.ascii else box.SIMPLE_HEAD,
        show_edge=False, pad_edge=False, header_style="bold", border_style="dim",
        padding=(0, 1, 0, gap - 2),
    )  # fmt: skip
    for i, width in widths.items():
        made.add_column(columns[i].title, justify=columns[i].justify, overflow="fold", width=width)
    for row in rows:
        made.add_row(*(row[i] for i in widths))
    return made


def _widths(columns: Sequence[Col], rows: Sequence[Cells], room: int, gap: int) -> dict[int, int | None]:
    """Columns to show, and how wide each is; None lets rich fold as it can, where nothing else helps."""
    least, most = {}, {}
    for i, column in enumerate(columns):
        cells = [str(row[i]) for row in rows]
        least[i] = max(_longest(column.title.split()), *(_longest(_parts(cell, column.wraps)) for cell in cells), 1)
        most[i] = max(_longest(text.split("\n")) for text in (column.title, *cells))
    while sum(least.values()) + gap * (len(least) - 1) > room and any(columns[i].spare for i in least):
        del least[max(least, key=lambda i: columns[i].spare)]
    left = room - gap * (len(least) - 1) - sum(least.values())
    if left < 0:
        return dict.fromkeys(least)
    for i in sorted(least, key=lambda i: most[i] - least[i]):  # who wants little gets it, the last gets what is left
        more = min(max(most[i] - least[i], 0), left)
        least[i] += more
        left -= more
    return dict(least)


def _parts(text: str, wraps: bool) -> list[str]:
    return text.split() if wraps else text.split("\n")


def _longest(parts: list[str]) -> int:
    return max(map(cell_len, parts), default=0)
