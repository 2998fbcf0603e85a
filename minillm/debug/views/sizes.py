"""Which recorded size a batch takes, and how much of it is padding."""

from collections.abc import Callable, Sequence

from rich.console import Group
from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.theme import SKY, STYLES


def size_bars(sizes: Sequence[int], choose: Callable[[list[int], int], int], most: int) -> Drawing:
    """A line for each batch of 1 to ``most`` rows: its rows, and the padding up to the size that ``choose`` takes."""
    facts = [(count, choose(list(sizes), count)) for count in range(1, most + 1)]
    width = len(str(most))

    def draw(canvas: Canvas) -> Group:
        cell = 2 if canvas.width >= 2 * max(sizes) + 30 else 1
        lines = [
            Text.assemble(
                (f"{count:>{width}} rows ", "") if count > 1 else (f"{count:>{width}} row  ", ""),
                (canvas.marks.new * count * cell, SKY),
                (canvas.marks.free * (size - count) * cell, STYLES["free"]),
                " " * ((max(sizes) - size) * cell),
                (f"  size {size}" + (f", {size - count} padding" if size > count else ""), STYLES["note"]),
            )
            for count, size in facts
        ]
        return Group(*lines)

    return Drawing(draw)
