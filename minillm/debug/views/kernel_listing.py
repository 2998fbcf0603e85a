"""A kernel's lines in the order in which they ran, each with what it made."""

from collections.abc import Sequence
from textwrap import wrap

from rich.table import Table
from rich.text import Text

from minillm.debug.kernel_lines import Line
from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import STYLES

ROOM = 37  # columns beside the code: how often a line ran, and what it made


def kernel_listing(lines: Sequence[Line]) -> Drawing:
    """A row a line. One that ran several times, in a loop, is shown as it ran first, with how often it did."""
    times: dict[int, int] = {}
    first: dict[int, Line] = {}
    for line in lines:
        if line.text.lstrip().startswith("# probe("):
            continue  # what is a comment on a GPU
        times[line.number] = times.get(line.number, 0) + 1
        first.setdefault(line.number, line)
    rows = [(line.text.partition("  # ")[0], times[number], line.made) for number, line in first.items()]
    columns = [Col("a line of the kernel", wraps=True), Col("runs", "right", spare=1), Col("it makes", wraps=True)]

    def draw(canvas: Canvas) -> Table:
        cells: list[Cells] = []
        for text, count, made in rows:
            values = "\n".join(f"{name} = {value}" for name, value in made.items())
            cells.append(
                [
                    _wrapped(text, max(canvas.width - ROOM, 24)),
                    Text("" if count == 1 else f"{count}x", STYLES["note"]),
                    values,
                ]
            )
        return table(canvas, columns, cells)

    return Drawing(draw)


def _wrapped(text: str, width: int) -> str:
    """A line of code in that many columns. What does not fit goes below, further in than the line itself."""
    own = len(text) - len(text.lstrip())
    return "\n".join(wrap(text, width, subsequent_indent=" " * (own + 4), break_on_hyphens=False)) or text
