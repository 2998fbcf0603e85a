"""A roofline (Williams et al. 2009): how fast something computes, against how much it computes for each byte it moves.

On the left the roof slants: memory brings bytes no faster than that. On the right it is flat: the processor computes no
faster than that. Both axes are logarithms, as always with rooflines.
"""

from collections.abc import Sequence
from math import log10
from typing import NamedTuple

from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing, in_a_row
from minillm.debug.views.theme import ORANGE, SKY, STYLES
from minillm.debug.views.units import number


class Point(NamedTuple):
    """One measurement: operations for each byte, and how fast it went."""

    name: str
    flops_per_byte: float
    gflops: float


def roofline(points: Sequence[Point], gb_per_s: float, gflops: float, height: int = 12) -> Drawing:
    """``points`` under the roof of a device that moves ``gb_per_s`` and computes ``gflops`` (GFLOP/s) at the most."""
    return Drawing(lambda canvas: _draw(canvas, list(points), gb_per_s, gflops, height))


def _draw(canvas: Canvas, points: list[Point], gb_per_s: float, gflops: float, height: int) -> Text:
    width = min(canvas.width, 90) - 10
    ridge = gflops / gb_per_s  # from here on, computing is what takes time
    left = min(*(p.flops_per_byte for p in points), ridge) / 2
    right = max(*(p.flops_per_byte for p in points), ridge) * 4
    top, bottom = max(gflops, *(p.gflops for p in points)) * 1.5, min(p.gflops for p in points) / 2

    def column(intensity: float) -> int:
        return min(int(log10(intensity / left) / log10(right / left) * width), width - 1)

    def line(speed: float) -> int:
        return min(max(int(log10(max(speed, bottom) / bottom) / log10(top / bottom) * height), 0), height - 1)

    grid: list[list[tuple[str, str]]] = [[(" ", "")] * width for _ in range(height)]
    for x in range(width):
        intensity = left * (right / left) ** ((x + 0.5) / width)
        roof = min(gflops, intensity * gb_per_s)
        if roof >= bottom:
            mark = canvas.marks.flat if roof == gflops else "/" if canvas.ascii else "╱"
            grid[line(roof)][x] = (mark, SKY)
    letters = "abcdefghij"
    for letter, point in zip(letters, points):
        grid[line(point.gflops)][column(point.flops_per_byte)] = (letter, f"bold {ORANGE}")
    labels = {height - 1: number(round(top)), 0: number(float(f"{bottom:.2g}"))}
    lines = [
        Text.assemble((f"{labels.get(row, ''):>7} {canvas.marks.border}", STYLES["note"]), *grid[row])
        for row in reversed(range(height))
    ]
    lines.append(Text(" " * 8 + canvas.marks.axis + canvas.marks.flat * width, STYLES["note"]))
    first, last = (number(float(f"{edge:.2g}")) for edge in (left, right))
    ends = first, f"{last} FLOP a byte"
    lines.append(Text(" " * 9 + ends[0] + " " * (width - len(ends[0]) - len(ends[1])) + ends[1], STYLES["note"]))
    names = [Text.assemble((letter, ORANGE), f" {point.name}") for letter, point in zip(letters, points)]
    return Text("\n").join([Text("GFLOP/s", STYLES["note"]), *lines, Text(), in_a_row(names, canvas.width)])
