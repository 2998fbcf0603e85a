"""What the KV cache's memory is doing: used, reserved and idle, or free."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing, in_a_row
from minillm.debug.views.owners import holdings
from minillm.debug.views.theme import GREEN, SKY, STYLES
from minillm.debug.views.units import number, percent

if TYPE_CHECKING:
    from minillm.kvcache.pages import PagePool
    from minillm.request import Request

_LOOKS = {"used": GREEN, "cached": SKY, "reserved": STYLES["waste"], "free": STYLES["free"]}
_MARKS = {"used": "new", "cached": "cached", "reserved": "wasted", "free": "reserved"}
_WORDS = {"used": "used", "cached": "cached prefixes", "reserved": "reserved, empty", "free": "free"}


def waste(requests: "Iterable[Request]", pool: "PagePool") -> dict[str, int]:
    """Slots by what they do; the first four add up to ``total``.

    used: holds a token's KV. cached: in a page that only the prefix cache keeps. reserved: in a request's page, and
    empty. free: anyone's.
    """
    held = holdings(requests, pool.page_size)
    used = sum(entry.filled for entry in held.values())
    return {
        "used": used,
        "cached": (pool.num_used - len(held)) * pool.page_size,
        "reserved": len(held) * pool.page_size - used,
        "free": pool.num_free * pool.page_size,
        "total": pool.num_pages * pool.page_size,
    }


def waste_bars(caches: Mapping[str, Mapping[str, int]]) -> Drawing:
    """One bar a cache, by its label: ``waste_bars({"page_size=2048": waste(...), "page_size=16": waste(...)})``."""
    facts = {label: dict(numbers) for label, numbers in caches.items()}
    return Drawing(lambda canvas: _draw(canvas, facts))


def _draw(canvas: Canvas, facts: dict[str, dict[str, int]]) -> Text:
    labels = max((len(label) for label in facts), default=0)
    beside = labels + 22 < canvas.width  # else the label gets a line of its own
    width = min(canvas.width - (labels + 2 if beside else 0), 60)
    lines: list[Text] = []
    for label, numbers in facts.items():
        line = Text(label.ljust(labels) + "  " if beside else label + "\n")
        for kind, cells in _shares(numbers, width).items():
            line.append(getattr(canvas.marks, _MARKS[kind]) * cells, _LOOKS[kind])
        lines.append(line)
        indent = labels + 2 if beside else 0
        words = _words(canvas, numbers, canvas.width - indent)
        lines += [Text.assemble(" " * indent, line) for line in words.split("\n")]
    return Text("\n").join(lines)


def _words(canvas: Canvas, numbers: dict[str, int], width: int) -> Text:
    """What the marks of a bar mean, with slots and shares; shares alone where there is no room."""
    full, short = [], []
    for kind, look in _LOOKS.items():
        if numbers[kind]:
            mark, share = getattr(canvas.marks, _MARKS[kind]), percent(numbers[kind], numbers["total"])
            full.append(Text.assemble((mark, look), f" {_WORDS[kind]} {number(numbers[kind])} ({share})"))
            short.append(Text.assemble((mark, look), f" {_WORDS[kind]} {share}"))
    one_line = sum(part.cell_len + 2 for part in full) - 2 <= width
    return in_a_row(full if one_line else short, width)


def _shares(numbers: dict[str, int], width: int) -> dict[str, int]:
    """Cells of a bar for each kind; what exists at all gets one, and together they fill the width."""
    total = numbers["total"] or 1
    cells = {kind: max(round(width * numbers[kind] / total), 1 if numbers[kind] else 0) for kind in _LOOKS}
    largest = max(cells, key=lambda kind: cells[kind])
    cells[largest] += width - sum(cells.values())
    return cells
