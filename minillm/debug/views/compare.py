"""Numbers beside each other: before and after, as bars, and along the steps of a run."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.spread import NOISE, Rounds, is_noise, middle, ratio, spread
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import SKY, STYLES


class Row(NamedTuple):
    """One measured thing, before and after. ``better``: "lower" or "higher", or "" where neither is.

    Of several rounds the median is shown, and how far they lie apart; a difference of two sides whose rounds overlap is
    called noise.
    """

    name: str
    before: Rounds
    after: Rounds
    unit: str = ""  # "s" and "B" choose their own multiples
    better: str = ""


def before_after(rows: Sequence[Row | tuple], before: str = "before", after: str = "after") -> Drawing:
    """What a switch changed: each row's two values and their ratio. ``before`` and ``after`` head the columns."""
    facts = [Row(*row) for row in rows]
    columns = [Col("", wraps=True), *(Col(title, "right", wraps=True) for title in (before, after, "ratio"))]

    def cells(between: str) -> list[Cells]:
        return [[r.name, *(spread(side, r.unit, between) for side in (r.before, r.after)), _ratio(r)] for r in facts]

    def draw(canvas: Canvas) -> Table:
        beside = cells(" ")  # the brackets; below, where names would have no room otherwise
        fits = sum(max(len(row[i]) for row in beside) + 2 for i in range(4)) <= canvas.width if facts else True
        return table(canvas, columns, beside if fits else cells("\n"))

    return Drawing(draw)


def _ratio(row: Row) -> Text:
    """``4.1x less``, coloured where it is clear which way is better."""
    before, after = middle(row.before), middle(row.after)
    if not before or not after or before * after < 0:
        return Text("-", STYLES["note"])
    times = after / before
    if is_noise(row.before, row.after):
        return Text(NOISE, STYLES["note"])
    if max(times, 1 / times) < 1.02:
        return Text("the same", STYLES["note"])
    improved = row.better == ("higher" if times > 1 else "lower")
    style = STYLES["good" if improved else "warn"] if row.better else ""
    return Text(f"{ratio(max(times, 1 / times))} {'more' if times > 1 else 'less'}", style)


def bar_text(canvas: Canvas, value: float, maximum: float, width: int, style: str = SKY) -> Text:
    """A bar, ``width`` cells wide with its empty end, where the canvas is known already."""
    steps = canvas.marks.eighths
    cells = width * min(max(value / maximum, 0.0), 1.0) if maximum else 0.0
    whole, part = divmod(round(cells * (len(steps) - 1)), len(steps) - 1)
    filled = steps[-1] * whole + (steps[part] if part else "")
    if not filled and maximum and value > maximum / 1000:
        filled = steps[1]  # a little is not nothing
    empty = "." if canvas.ascii else canvas.marks.free  # the dash of free pages would look like a table's rules
    return Text.assemble((filled, style), (empty * (width - len(filled)), STYLES["free"]))


def bar(value: float, maximum: float, width: int = 24, style: str = SKY) -> Drawing:
    """A horizontal bar: ``value`` of ``maximum``."""
    return Drawing(lambda canvas: bar_text(canvas, value, maximum, width, style))


def sparkline_text(canvas: Canvas, values: Sequence[float]) -> Text:
    levels, top = canvas.marks.levels, max(values, default=0)
    if top <= 0:
        return Text(levels[0] * len(values))
    # Only nothing gets the lowest level.
    heights = [0 if v <= 0 else max(round(v / top * (len(levels) - 1)), 1) for v in values]
    return Text("".join(levels[height] for height in heights), SKY)


def sparkline(values: Sequence[float]) -> Drawing:
    """Values from zero up as one line of small columns."""
    return Drawing(lambda canvas: sparkline_text(canvas, values))
