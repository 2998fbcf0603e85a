"""Page tables and the free list: the two lists of plain numbers that are all of paging's book-keeping."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import STYLES, tag
from minillm.debug.views.units import number

if TYPE_CHECKING:
    from minillm.kvcache.pages import PagePool
    from minillm.request import Request

_COLUMNS = (
    Col("request"),
    Col("cached\ntokens", "right"),
    Col("page table, first tokens first"),
    Col("last page", "right", spare=2),
    Col("unused\nslots", "right", spare=1),
)


def page_tables(requests: "Iterable[Request]", page_size: int, max_rows: int = 24) -> Drawing:
    """One row a request: its pages in the order of its tokens, and what of the last one is not used."""
    facts = [(r.id, r.num_computed, list(r.pages)) for r in requests]

    def draw(canvas: Canvas) -> Table:
        rows: list[Cells] = []
        for id, tokens, pages in facts[:max_rows]:
            unused = len(pages) * page_size - tokens
            last = page_size - unused if pages else 0
            waste = Text(number(unused), STYLES["waste"] if unused else STYLES["note"])
            fill = f"{number(last)} of {number(page_size)}"
            rows.append([tag(id), number(tokens), _chain(canvas, pages), fill, waste])
        if len(facts) > max_rows:
            rows.append(["...", "", f"{len(facts) - max_rows} more", "", ""])
        return table(canvas, _COLUMNS, rows)

    return Drawing(draw)


def _chain(canvas: Canvas, pages: list[int]) -> Text:
    """``page 3 -> page 7``, broken between links to fit beside the other columns; long ones lose their middle."""
    width = canvas.width - (44 if canvas.width >= 60 else 28 if canvas.width >= 50 else 18)
    names = [f"page {page}" for page in pages]
    if len(names) > 24:
        names = [*names[:12], f"... {len(names) - 18} more", *names[-6:]]
    lines, arrow = [""], f" {canvas.marks.arrow} "
    for i, name in enumerate(names):
        link = (arrow if i else "") + name
        if lines[-1] and len(lines[-1] + link) > width:
            lines.append("")
        lines[-1] += link
    return Text("\n".join(line.strip() for line in lines) if pages else "none yet")


def free_list(pool: "PagePool", show: int = 8) -> Drawing:
    """The top of the stack of free pages: the next request to need a page gets the first."""
    count, top = pool.num_free, list(reversed(pool.free_pages[-show:]))

    def draw(canvas: Canvas) -> Text:
        text = Text.assemble(("free list ", STYLES["title"]), f"({number(count)} pages): ")
        if not top:
            return text.append("empty; who needs a page now preempts somebody", STYLES["warn"])
        text.append("next ", STYLES["note"]).append(str(top[0]), "bold")
        text.append("".join(f", {page}" for page in top[1:]))
        return text.append(f", ... {number(count - len(top))} below" if count > len(top) else "", STYLES["note"])

    return Drawing(draw)
