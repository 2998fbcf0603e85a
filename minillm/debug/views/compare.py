"""Numbers beside each other: before and after, as bars, and along the steps of a run."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import SKY, STYLES
from minillm.debug.views.units import amount

Rounds = float | Sequence[float] | None  # one number, or one for each time that it was measured


class Row(NamedTuple):
    """One measured thing, before and after. ``better``: "lower" or "higher", or "" where neither is.

    Of several rounds the median is shown, and a ratio no larger than between rounds of one side is called noise.
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

    def draw(canvas: Canvas) -> Table:
        cells: list[Cells] = [
            [r.name, *(_value(_middle(side), r.unit) for side in (r.before, r.after)), _ratio(r)] for r in facts
        ]
        return table(canvas, columns, cells)

    return Drawing(draw)


def _value(value: float | None, unit: str) -> str:
    return "-" if value is None else amount(value, unit)


def _middle(rounds: Rounds) -> float | None:
    return median(rounds) if isinstance(rounds, Sequence) else rounds


def _noise(rounds: Rounds) -> float:
    """The largest ratio between two rounds of one side; 1 where there are no two that differ."""
    values = rounds if isinstance(rounds, Sequence) else ()
    return max(values) / min(values) if values and min(values) > 0 else 1.0


def _ratio(row: Row) -> Text:
    """``4.1x less``, coloured where it is clear which way is better."""
    before, after = _middle(row.before), _middle(row.after)
    if not before or not after or before * after < 0:
        return Text("-", STYLES["note"])
    ratio = after / before
    times, noise = max(ratio, 1 / ratio), max(_noise(row.before), _noise(row.after))
    if times < 1.02:
        return Text("the same", STYLES["note"])
    if noise > 1 and times < max(noise, 1.05):
        return Text("within noise", STYLES["note"])
    words = f"{times:,.0f}x" if times >= 100 else f"{times:.1f}x" if times >= 1.95 else f"{times:.2f}x"
    improved = row.better == ("higher" if ratio > 1 else "lower")
    style = STYLES["good" if improved else "warn"] if row.better else ""
    return Text(f"{words} {'more' if ratio > 1 else 'less'}", style)


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
