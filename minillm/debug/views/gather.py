"""One attention gather: a request's tokens in their order above, and below where its pages really lie."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing, flow
from minillm.debug.views.owners import holdings
from minillm.debug.views.theme import STYLES, colour, letter

if TYPE_CHECKING:
    from minillm.kvcache.pages import PagePool
    from minillm.request import Request


def gather_map(
    request: "Request",
    pool: "PagePool",
    requests: "Iterable[Request]" = (),
    length: int | None = None,
    max_blocks: int = 12,
) -> Drawing:
    """What attention reads for one request: ``length`` tokens (those with KV, if not said), page by page, in order.

    ``requests``: the others, so that their pages carry their letters. ``A[2]`` is entry 2 of A's page table.
    """
    S = pool.page_size
    length = request.num_computed if length is None else length
    pages = request.pages[: -(-length // S)]
    owners = {page: letter(held.owners[0]) for page, held in holdings([*requests, request], S).items()}
    memory = [owners.get(page, "?") if pool.references[page] else "" for page in range(pool.num_pages)]
    id = request.id
    return Drawing(lambda canvas: _draw(canvas, id, pages, memory, length, S, max_blocks))


def _draw(canvas: Canvas, id: int, pages: list[int], memory: list[str], length: int, S: int, max_blocks: int) -> Text:
    name = letter(id)
    head = Text.assemble(
        (name, f"bold {colour(id)}"), (f" attends to {length} tokens, in this order, as one piece", STYLES["title"])
    )
    if not pages:
        return Text.assemble(head, "\nnothing in the cache yet")
    entries = list(range(len(pages)))
    if len(entries) > max_blocks:
        entries = [*entries[: max_blocks - 2], -1, entries[-1]]
    inner = max(len(_positions(canvas, i, length, S)) for i in (0, len(pages) - 1))
    inner = max(inner, len(_slots(max(pages) * S, max(pages) * S + S - 1)))
    blocks = [_block(canvas, id, i, pages, length, S, inner) for i in entries]
    below = Text("and in memory, where the pages happen to lie", STYLES["title"])
    strip = flow(_strip(canvas, id, pages, memory), canvas.width, gap=2)
    return Text("\n").join([head, flow(blocks, canvas.width), Text(), below, strip])


def _positions(canvas: Canvas, index: int, length: int, S: int) -> str:
    """The positions in one page: each of them, or from where to where."""
    first, end = index * S, min((index + 1) * S, length)
    if S > 8:
        return f"tokens {first}..{end - 1}"
    width = len(str(length - 1))
    return " ".join(str(p if p < end else canvas.marks.free).rjust(width) for p in range(first, first + S))


def _slots(first: int, last: int) -> str:
    return f"slots {first}..{last}" if last > first else f"slot {first}"


def _block(canvas: Canvas, id: int, index: int, pages: list[int], length: int, S: int, inner: int) -> list[Text]:
    """One page as a box, six lines: its place in the page table, the tokens in it, and where it is."""
    if index < 0:
        return [Text(" ... " if line == 2 else "") for line in range(6)]
    left, right, low_left, low_right, tee = tuple(canvas.marks.corners)
    flat, border, hue = canvas.marks.flat, canvas.marks.border, colour(id)
    first, end = index * S, min((index + 1) * S, length)
    page, half = pages[index], (inner + 1) // 2
    return [
        Text(f"{letter(id)}[{index}]".center(inner + 4).rstrip(), f"bold {hue}"),
        Text(left + flat * (inner + 2) + right, hue),
        Text.assemble((border, hue), f" {_positions(canvas, index, length, S).center(inner)} ", (border, hue)),
        Text(low_left + flat * half + tee + flat * (inner + 1 - half) + low_right, hue),
        Text(f"page {page}".center(inner + 4).rstrip()),
        Text(_slots(page * S, page * S + end - first - 1).center(inner + 4).rstrip(), STYLES["note"]),
    ]


def _strip(canvas: Canvas, id: int, pages: list[int], memory: list[str]) -> list[list[Text]]:
    """Physical pages in rising order, two lines each: the number, and who lies there. Stretches of others shrink."""
    entry = {page: index for index, page in enumerate(pages)}
    blocks: list[list[Text]] = []
    last = min(max(pages) + 2, len(memory))
    near = {near for page in pages for near in (page - 1, page, page + 1)} | {0}
    for page in range(last):
        if page not in near:
            if page - 1 in near:
                blocks.append([Text("..", STYLES["note"]), Text("..", STYLES["note"])])
            continue
        mine, owner = page in entry, memory[page] or canvas.marks.free
        label = Text(f"{letter(id)}[{entry[page]}]", f"bold {colour(id)}") if mine else Text(owner, STYLES["note"])
        blocks.append([Text(str(page), "" if mine else STYLES["note"]), label])
    return blocks
