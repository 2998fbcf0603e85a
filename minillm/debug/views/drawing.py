"""How a view is drawn: first when the console is known, because its width, its colours and its letters decide.

A view takes its facts from the live objects at once (they change with the next step), and returns a `Drawing`: the
facts, waiting for a console. Everything of a view survives without colour and in ASCII: a mark never differs by colour
alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.text import Text


@dataclass(frozen=True)
class Marks:
    """The characters that views draw with."""

    filled: str = "▄"
    new: str = "▇"
    reserved: str = "▁"
    wasted: str = "▄"
    free: str = "·"
    cached: str = "~"
    arrow: str = "→"
    chosen: str = "◄"
    border: str = "│"
    flat: str = "─"
    corners: str = "┌┐└┘┬"  # of a box, and where a line leaves it
    axis: str = "└"
    branches: tuple[str, str, str] = ("├─ ", "└─ ", "│  ")  # of a tree: a child, the last one, and past one
    points: tuple[str, ...] = ("●", "○", "◆", "◇")
    eighths: str = " ▏▎▍▌▋▊▉█"  # the end of a bar, from nothing to a whole cell
    levels: str = "▁▂▃▄▅▆▇█"  # a sparkline's heights


UNICODE = Marks()
ASCII = Marks(
    filled="#", new="*", reserved=".", wasted="x", free="-", cached="~", arrow="->", chosen="<-", border="|", flat="-",
    corners="+++++", axis="+", branches=("|- ", "`- ", "|  "), points=("o", "x", "+", "@"),
    eighths=" :-+#", levels=" .:-=+*#",
)  # fmt: skip


@dataclass(frozen=True)
class Canvas:
    """What is known of a console when a view is drawn."""

    width: int
    colour: bool
    ascii: bool

    @property
    def marks(self) -> Marks:
        return ASCII if self.ascii else UNICODE


@dataclass
class Drawing:
    """A rich renderable whose content is made for the console it is printed on."""

    draw: Callable[[Canvas], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.draw(_canvas(console, options))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.draw(_canvas(console, options)))


def _canvas(console: Console, options: ConsoleOptions) -> Canvas:
    colour = console.color_system is not None and not console.no_color
    return Canvas(options.max_width, colour, options.ascii_only)


def in_a_row(parts: Sequence[Text], width: int, gap: int = 2) -> Text:
    """Short texts beside each other, and on further lines where they do not fit; none is broken unless it must be."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + gap + part.cell_len <= width:
            lines[-1].append(" " * gap).append_text(part)
        else:
            lines.append(part.copy())
    return Text("\n").join(lines)


def flow(blocks: Sequence[Sequence[Text]], width: int, gap: int = 1) -> Text:
    """Blocks of equally many lines side by side, in as many rows as ``width`` asks for; all as wide as the widest."""
    cell = max((line.cell_len for block in blocks for line in block), default=1)
    fitting = max((width + gap) // (cell + gap), 1)
    lines = []
    for first in range(0, len(blocks), fitting):
        for parts in zip(*blocks[first : first + fitting]):
            padded = [Text.assemble(part, " " * (cell - part.cell_len)) for part in parts]
            lines.append(Text(" " * gap).join(padded))
    return Text("\n", no_wrap=True, overflow="crop").join(lines)
