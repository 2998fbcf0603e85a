"""Two pieces of code beside each other, line by line, or one over the other; a sign says how each line differs."""

from collections.abc import Iterator
from difflib import SequenceMatcher
from textwrap import dedent

from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

WIDE = 120  # columns that two pieces of code beside each other need at least
SIGNS = {"same": " ", "changed": "|", "yours": "<", "engine": ">"}  # as in diff --side-by-side
LEGEND = "| differs   < only in yours   > only in the engine's"
Row = tuple[str, Text, Text]  # a sign, and the lines of both sides


def beside(titles: tuple[str, str], yours: str, engines: str, width: int) -> RenderableType:
    """Side by side where there is room for it. The signs stand there as well as the colours."""
    rows = list(_rows(_lines(yours), _lines(engines)))
    if width < WIDE:
        return Group(_one(titles[0], rows, 1, "yours"), "", _one(titles[1], rows, 2, "engine"), "", _legend())
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="note")
    table.add_column(titles[0], ratio=1, overflow="fold")
    table.add_column("", width=1)
    table.add_column(titles[1], ratio=1, overflow="fold")
    for sign, left, right in rows:
        table.add_row(left, Text(SIGNS[sign], style="warn"), right)
    return Group(table, _legend())


def _one(title: str, rows: list[Row], side: int, name: str) -> RenderableType:
    """One of the two, each line behind its sign."""
    table = Table(box=None, padding=(0, 1, 0, 0), show_header=False)
    table.add_column(width=1)
    table.add_column(overflow="fold")
    for row in rows:
        if row[0] in ("same", "changed", name):
            line = row[side]
            table.add_row(Text(SIGNS[row[0]], style="warn"), line if isinstance(line, Text) else Text(line))
    return Group(Text(title, style="note"), table)


def _legend() -> Text:
    return Text(LEGEND, style="note")


def _lines(code: str) -> list[Text]:
    """In colours, a Text for each line."""
    text = dedent(code)
    coloured = Syntax(text, "python", theme="ansi_dark").highlight(text)
    lines = list(coloured.split("\n", allow_blank=True))
    while lines and not lines[-1].plain.strip():
        lines.pop()
    return lines


def _rows(yours: list[Text], engines: list[Text]) -> Iterator[Row]:
    plain = [[line.plain.rstrip() for line in lines] for lines in (yours, engines)]
    for _, i, i_end, j, j_end in SequenceMatcher(None, plain[0], plain[1], autojunk=False).get_opcodes():
        for k in range(max(i_end - i, j_end - j)):
            left = yours[i + k] if i + k < i_end else None
            right = engines[j + k] if j + k < j_end else None
            if left is not None and right is not None:
                yield "same" if left.plain.rstrip() == right.plain.rstrip() else "changed", left, right
            elif left is not None:
                yield "yours", left, Text("")
            elif right is not None:
                yield "engine", Text(""), right
