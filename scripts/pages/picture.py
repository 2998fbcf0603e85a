"""Lines of styled text as a terminal shows them, drawn as an SVG picture.

A line is a list of spans; a span is plain text, or ``[style, text]`` with a style as rich writes it:
``["bold #56b4e9", "A"]``.
"""

import io
import re
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from minillm.debug.views.theme import make_console

Span = str | list[str]
Line = list[Span]

WIDTH = 90  # columns: a chapter's text is about as wide, at a size that is still read well

# A terminal's sixteen colours; the lessons' own are exact ones, from minillm/debug/views/theme.py.
COLOURS = ["#1b2430", "#f07178", "#7fd1ae", "#f0e442", "#56b4e9", "#cc79a7", "#6fd3e0", "#dfe5ec"]
THEME = TerminalTheme(
    (27, 36, 48),
    (223, 229, 236),
    [tuple(bytes.fromhex(colour[1:])) for colour in COLOURS],  # type: ignore[misc]
)

SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="-14 -14 {box_width} {box_height}" class="rich-terminal">
<style>
text {{ font: {char_height}px Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace; white-space: pre }}
{styles}
</style>
<rect x="-14" y="-14" width="100%" height="100%" rx="10" fill="#1b2430" stroke="#3a4757"/>
{backgrounds}
<g>{matrix}</g>
</svg>
"""


def terminal() -> Console:
    """A console that keeps what is printed to it, in colour, and shows it to nobody."""
    options: dict[str, Any] = {"force_terminal": True, "color_system": "truecolor", "file": io.StringIO()}
    return make_console(width=WIDTH, record=True, **options)


def draw(lines: list[Line]) -> str:
    canvas = terminal()
    for line in lines:
        canvas.print(Text.assemble(*(_as_rich(span) for span in line)), soft_wrap=True)
    # The sizes are rich's: 20 units a letter's height, 0.61 of it its width, 1.22 a line's height.
    sizes = {"box_width": round(WIDTH * 12.2 + 28, 1), "box_height": round(len(lines) * 24.4 + 28, 1)}
    template = SVG
    for name, size in sizes.items():
        template = template.replace("{" + name + "}", str(size))
    drawn = canvas.export_svg(theme=THEME, code_format=template, unique_id="t")
    return re.sub(r' clip-path="[^"]*"', "", drawn)  # each text has its length already


def plain(line: Line) -> str:
    return "".join(span if isinstance(span, str) else span[1] for span in line)


def spans(text: Text) -> Line:
    """A line of rich's as data: spaces have no style unless it shows, and there are none at the line's end."""
    text = text.copy()
    text.rstrip()
    line: Line = []
    for segment in text.render(terminal()):
        style = segment.style or Style.null()
        shows = style.bgcolor or style.reverse or style.underline or style.strike
        for part in [segment.text] if shows else re.split(r"(^ +| +$)", segment.text):
            _append(line, part, str(style) if shows or part.strip() else "none")
    return line


def _append(line: Line, text: str, style: str) -> None:
    """One more piece of a line; what has the style of the last one joins it."""
    last = line[-1] if line else None
    if style == "none" and isinstance(last, str):
        line[-1] = last + text
    elif isinstance(last, list) and last[0] == style:
        last[1] += text
    elif text:
        line.append(text if style == "none" else [style, text])


def _as_rich(span: Span) -> str | tuple[str, str]:
    return span if isinstance(span, str) else (span[1], span[0])
