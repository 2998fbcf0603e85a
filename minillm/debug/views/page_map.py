"""The page map: every page of the KV cache as a small cell, with its number, its owner, and what is in it."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing, flow
from minillm.debug.views.owners import Held, holdings
from minillm.debug.views.theme import STYLES, colour, legend_text, letter
from minillm.debug.views.units import percent

if TYPE_CHECKING:
    from torch import Tensor

    from minillm.kvcache.pages import PagePool
    from minillm.request import Request


class Cell(NamedTuple):
    """A page as it is drawn: its marks by name (one a slot, or one a group of slots), and its fill in words if huge."""

    page: int
    owners: list[int]
    marks: list[str]
    fill: str


def page_map(
    pool: "PagePool",
    requests: "Iterable[Request]",
    step_slots: "Tensor | Iterable[int] | None" = None,
    max_pages: int = 128,
) -> Drawing:
    """Who holds what in the cache. ``step_slots``: those that this step writes (`ForwardBatch.slots`), to be marked."""
    S = pool.page_size
    requests = list(requests)
    held = holdings(requests, S)
    written: dict[int, set[int]] = defaultdict(set)  # page -> offsets
    for slot in () if step_slots is None else (int(slot) for slot in step_slots):
        written[slot // S].add(slot % S)
    shown = min(pool.num_pages, max_pages)
    cells = [
        _cell(page, held.get(page, Held(filled=S)), written[page], S) if pool.references[page] else None
        for page in range(shown)
    ]
    used, free = pool.num_used, pool.num_free
    title = f"{pool.num_pages} pages of {S} {'token' if S == 1 else 'tokens'}: {used} in use, {free} free"
    alone = sum(1 for page, count in enumerate(pool.references) if count and page not in held)
    title += f"; {alone} kept by the prefix cache alone" if alone else ""
    hidden = pool.references[shown:]
    owners = {request.id for request in requests if request.pages}
    return Drawing(lambda canvas: _draw(canvas, title, cells, sum(map(bool, hidden)), hidden.count(0), owners))


def _cell(page: int, held: Held, written: set[int], S: int) -> Cell:
    """Small pages get a mark a slot; larger ones a mark for a group of slots, which is as its fullest slot."""
    count = S if S <= 8 else 4 if S <= 64 else 8
    marks = []
    for i in range(count):
        first, end = i * S // count, (i + 1) * S // count
        new = any(first <= offset < end for offset in written)
        marks.append("new" if new else "filled" if first < held.filled else "reserved")
    filled = max([held.filled, *(offset + 1 for offset in written)])
    if not held.owners:
        marks = ["cached"] * count
    return Cell(page, held.owners, marks, percent(filled, S).rjust(5) if S > 64 else "")


def _draw(
    canvas: Canvas, title: str, cells: list[Cell | None], used_beyond: int, free_beyond: int, owners: set[int]
) -> Text:
    """Cells in rows. Rows in which every page is free shrink to one line, but for the first of them."""
    digits = len(str(len(cells) - 1))
    names = max((len(_owner(cell)) for cell in cells if cell), default=1)
    blocks = [[_cell_text(canvas, page, cell, digits, names)] for page, cell in enumerate(cells)]
    width = max((block[0].cell_len for block in blocks), default=1)
    for block in blocks:
        block[0].append(" " * (width - block[0].cell_len))
    gap = 3
    per_row = max((canvas.width + gap) // (width + gap), 1)
    per_row = max(n for n in (1, 2, 3, 4, 5, 6, 8, 10, 16) if n <= per_row)  # easy to count by
    rows = flow(blocks, per_row * (width + gap), gap).split("\n")
    lines, skipped = [Text(title, STYLES["title"])], 0
    for i, row in enumerate(rows):
        part = cells[i * per_row : (i + 1) * per_row]
        before = cells[max(i - 1, 0) * per_row : i * per_row]
        if i > 1 and not any(part) and not any(before):
            skipped += len(part)
            continue
        if skipped:
            lines.append(Text(f"... {skipped} more free", STYLES["free"]))
            skipped = 0
        lines.append(row)
    if used_beyond:
        hidden = skipped + used_beyond + free_beyond
        lines.append(Text(f"... {hidden} more, {used_beyond} of them in use", STYLES["note"]))
    elif skipped + free_beyond:
        lines.append(Text(f"... {skipped + free_beyond} more free", STYLES["free"]))
    seen = {mark for cell in cells if cell for mark in cell.marks}
    if not all(cells) or free_beyond:
        seen.add("free")
    order = [name for name in ("filled", "new", "reserved", "cached", "free") if name in seen]
    others = {"A+B": "shared page"} if any(cell and len(cell.owners) > 1 for cell in cells) else {}
    return Text("\n").join([*lines, Text(), legend_text(canvas, order, owners, others)])


def _cell_text(canvas: Canvas, page: int, cell: Cell | None, digits: int, names: int) -> Text:
    if cell is None:
        return Text(f"{page:>{digits}} {canvas.marks.free}", STYLES["free"])
    hue = colour(cell.owners[0]) if cell.owners else STYLES["cached"]
    text = Text.assemble((f"{page:>{digits}} ", "dim"), (_owner(cell).ljust(names), f"bold {hue}"), " ")
    for mark in cell.marks:
        style = {"new": f"bold {hue}", "reserved": "dim", "cached": STYLES["cached"]}.get(mark, hue)
        text.append(getattr(canvas.marks, mark), style)
    return text.append(cell.fill)


def _owner(cell: Cell) -> str:
    names = [letter(id) for id in cell.owners] or ["~"]
    return "+".join(names) if len(names) < 3 else f"{names[0]}+{len(names) - 1}"
