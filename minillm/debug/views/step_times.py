"""The cost of each step as a small plot: does it grow with the length, or is it flat?"""

from collections.abc import Mapping, Sequence
from statistics import median

from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing, in_a_row
from minillm.debug.views.theme import ORANGE, SKY, STYLES
from minillm.debug.views.units import amount

_HUES = (ORANGE, SKY, "", "dim")


def step_times(series: Mapping[str, Sequence[float]], height: int = 10, unit: str = "s", x: str = "step") -> Drawing:
    """Up to four labelled series over the same steps, from zero up: ``{"without cache": [...], "with cache": [...]}``.

    Each series has its own mark. Steps that share a column are drawn at their median, so that one slow step does not
    squeeze the rest.
    """
    facts = {label: list(values) for label, values in series.items() if len(values)}
    return Drawing(lambda canvas: _draw(canvas, facts, height, unit, x) if facts else Text("nothing was measured"))


def _draw(canvas: Canvas, facts: dict[str, list[float]], height: int, unit: str, x: str) -> Text:
    steps = max(len(values) for values in facts.values())
    room = min(canvas.width, 100) - 12
    width = min(steps, room)  # in columns; fewer steps than half the room are spread out
    stretch = max(room // width, 1)
    columns = {label: _columns(values, steps, width) for label, values in facts.items()}
    top = max(max(values) for values in columns.values()) or 1.0
    grid: list[list[tuple[str, str]]] = [[(" ", "")] * (width * stretch) for _ in range(height)]
    for i, values in enumerate(columns.values()):
        for column, value in enumerate(values):
            line = min(int(max(value, 0) / top * height), height - 1)
            grid[line][column * stretch] = (canvas.marks.points[i % 4], _HUES[i % 4])
    lines = []
    for number in reversed(range(height)):
        label = {height - 1: amount(top, unit), height // 2 - 1: amount(top / 2, unit)}.get(number, "")
        lines.append(Text.assemble((f"{label:>9} {canvas.marks.border}", STYLES["note"]), *grid[number]))
    base = canvas.marks.axis + canvas.marks.flat * (width * stretch)
    lines.append(Text(f"{'0':>9} {base}", STYLES["note"]))
    ends = f"{x} 1", str(steps)
    gap = max(width * stretch - len(ends[0]) - len(ends[1]), 1)
    lines.append(Text(" " * 11 + ends[0] + " " * gap + ends[1], STYLES["note"]))
    names = [
        Text.assemble((canvas.marks.points[i % 4], _HUES[i % 4]), f" {label}, last {amount(values[-1], unit)}")
        for i, (label, values) in enumerate(facts.items())
    ]
    return Text("\n").join([*lines, Text(), in_a_row(names, canvas.width)])


def _columns(values: list[float], steps: int, width: int) -> list[float]:
    """One value for each of ``width`` columns that stand for ``steps`` steps; fewer where a series ended earlier."""
    parts = (values[i * steps // width : (i + 1) * steps // width] for i in range(width))
    return [median(part) for part in parts if part]
