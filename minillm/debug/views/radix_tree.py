"""The prefix cache's tree: a line a node, with its text, its pages, and who holds it.

Letters are requests whose path goes through a node: it is locked. ``~`` stands, as in the page map, where the tree
alone keeps the pages: they may be evicted.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing, in_a_row
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import STYLES, tag
from minillm.debug.views.tokens import shortened
from minillm.debug.views.units import counted, number, ranges

if TYPE_CHECKING:
    from minillm.kvcache.radix import Node, RadixCache
    from minillm.request import Request
    from minillm.text.tokenizer import Tokenizer

# A page of the tree with its tokens -> all pages of the node that it stood in.
Remembered = dict[tuple[int, ...], tuple[int, ...]]

_TOKENS, _GOES, _CHANGE = 1, 4, 5  # columns that may be missing
_ENDS = 100  # tokens of a long run's beginning and end that are looked at


class _Line(NamedTuple):
    """A node as it is drawn. ``last``: for each node from below the root to this one, whether it is its parent's last
    child. ``goes``: which leaf is evicted first, second ...; 0 where it is not its turn yet."""

    last: tuple[bool, ...]
    text: str
    tokens: int
    pages: list[int]
    owners: list[int]
    locks: int
    goes: int
    change: str


def radix_tree(
    cache: "RadixCache",
    requests: "Iterable[Request]" = (),
    tokenizer: "Tokenizer | None" = None,
    before: Remembered | None = None,
    order: bool = False,
    max_nodes: int = 40,
) -> Drawing:
    """The whole tree. ``before``: what `remember` gave earlier, to say what has changed since. ``order``: number the
    leaves in the order in which they would be evicted. Without a tokenizer a node's text is its token ids."""
    owners = _owners(requests)
    nodes = list(cache.nodes())
    leaves = sorted((node.last_used, i) for i, node in enumerate(nodes) if not node.locks and not node.children)
    turn = {id(nodes[i]): rank for rank, (_, i) in enumerate(leaves, 1)} if order else {}
    there = {key for node in nodes for key in _keys(node)}
    lines = [
        _Line(
            last, _text(node, tokenizer), len(node.token_ids), list(node.pages), owners[id(node)], node.locks,
            turn.get(id(node), 0), "" if before is None else _change(node, before, there),
        )
        for node, last in islice(_walk(cache.root, ()), max_nodes)
    ]  # fmt: skip
    pages, free = sum(len(node.pages) for node in nodes), cache.num_evictable
    title = f"{counted(len(nodes), 'node')}, {counted(pages, 'page')} of {counted(cache.page_size, 'token')}"
    title += f": {pages - free} locked, {free} can be evicted" if nodes else ": the tree is empty"
    hidden = len(nodes) - len(lines)
    return Drawing(lambda canvas: _draw(canvas, title, lines, hidden))


def remember(cache: "RadixCache") -> Remembered:
    """What is in the tree now, to be compared with later."""
    return {key: tuple(node.pages) for node in cache.nodes() for key in _keys(node)}


def _keys(node: "Node") -> list[tuple[int, ...]]:
    """Each page with its tokens: after an eviction the same page may come back with others."""
    S = len(node.token_ids) // len(node.pages)
    return [(page, *node.token_ids[i * S : (i + 1) * S]) for i, page in enumerate(node.pages)]


def _change(node: "Node", before: Remembered, there: set[tuple[int, ...]]) -> str:
    """What has become of a node's pages, in a word."""
    keys = _keys(node)
    known = [key for key in keys if key in before]
    if not known:
        return "new"
    once = before[known[0]]
    if len(known) < len(keys):
        return "longer"
    if len(once) > len(keys):
        still = {key for key in before if before[key] == once} & there
        return "split" if len(still) > len(keys) else "shorter"
    return ""


def _owners(requests: "Iterable[Request]") -> dict[int, list[int]]:
    """id(node) -> the requests whose path goes through it."""
    found: dict[int, list[int]] = defaultdict(list)
    for request in requests:
        node = request.place.node
        while node is not None and node.parent:
            found[id(node)].append(request.id)
            node = node.parent
    return found


def _walk(node: "Node", last: tuple[bool, ...]) -> "Iterator[tuple[Node, tuple[bool, ...]]]":
    """Every node below, parents first, as a page is read."""
    children = list(node.children.values())
    for i, child in enumerate(children):
        here = (*last, i == len(children) - 1)
        yield child, here
        yield from _walk(child, here)


def _text(node: "Node", tokenizer: "Tokenizer | None") -> str:
    """What a run says; only its ends if it is so long that nothing else will be shown."""
    ids = node.token_ids
    parts = [ids] if len(ids) <= 2 * _ENDS else [ids[:_ENDS], ids[-_ENDS:]]
    if tokenizer is None:
        return "...".join(" ".join(map(str, part)) for part in parts)
    texts = (tokenizer.decode(part, skip_special_tokens=False) for part in parts)
    return "...".join(texts).replace("\ufffd", "?")


def _draw(canvas: Canvas, title: str, lines: list[_Line], hidden: int) -> Group:
    columns = [
        Col("run of tokens"), Col("tokens", "right"), Col("page ids", wraps=True), Col("held by"), Col("goes", "right"),
        Col("now"),
    ]  # fmt: skip
    rows: list[Cells] = [
        [
            Text(), number(line.tokens), ranges(line.pages, 4), _held(line.owners, line.locks), str(line.goes or ""),
            Text(line.change, STYLES["new"] if line.change == "new" else "bold"),
        ]
        for line in lines
    ]  # fmt: skip
    narrow, goes = canvas.width < 60, any(line.goes for line in lines)
    changes = any(line.change for line in lines) and not (narrow and goes)
    wanted = [0, *([] if narrow else [_TOKENS]), 2, 3, *([_GOES] if goes else []), *([_CHANGE] if changes else [])]
    gap = 3 if canvas.width >= 100 else 2
    widths = [max(_title_width(columns[i], narrow), *(len(str(row[i])) for row in rows)) for i in wanted[1:] if rows]
    others = sum(min(width, 16) + gap for width in widths)
    room = max(canvas.width - others, 14)
    for row, line in zip(rows, lines):
        row[0] = _branch(canvas, line, room)
    parts: list[RenderableType] = [Text(title, STYLES["title"])]
    if rows:
        parts += [Text(), table(canvas, [columns[i] for i in wanted], [[row[i] for i in wanted] for row in rows])]
    if hidden:
        parts.append(Text(f"... {counted(hidden, 'more node')}", STYLES["note"]))
    return Group(*parts, *_legend(canvas, lines))


def _title_width(column: Col, narrow: bool) -> int:
    """Where there is little room, a title is broken between its words."""
    return max(map(len, column.title.split())) if narrow else len(column.title)


def _branch(canvas: Canvas, line: _Line, room: int) -> Text:
    """The lines that lead here from the root, and as much of the run's text as there is room for."""
    fork, end, through = canvas.marks.branches
    lead = "".join("   " if last else through for last in line.last[:-1]) + (end if line.last[-1] else fork)
    if len(lead) > room - 8:  # very deep
        lead = lead[: room - 12] + "..."
    style = STYLES["new"] if line.change == "new" else "" if line.locks else STYLES["cached"]
    return Text.assemble((lead, "dim"), (shortened(line.text, room - len(lead)), style))


def _held(owners: Sequence[int], locks: int) -> Text:
    if not locks:
        return Text("~", STYLES["cached"])
    if not owners:  # by requests that the view was not told of
        return Text(counted(locks, "lock"))
    named = Text("+").join(tag(id) for id in owners[:3])
    return named.append(f"+{len(owners) - 3}") if len(owners) > 3 else named


def _legend(canvas: Canvas, lines: list[_Line]) -> list[Text]:
    parts = []
    ids = sorted({id for line in lines for id in line.owners})
    if ids:
        parts.append(Text.assemble(tag(ids[0]), (" locked: a request's path", STYLES["note"])))
    if any(not line.locks for line in lines):
        parts.append(Text.assemble(("~", STYLES["cached"]), (" kept by the tree alone", STYLES["note"])))
    if any(line.goes for line in lines):
        parts.append(Text("goes: which leaf is evicted first", STYLES["note"]))
    return [Text(), in_a_row(parts, canvas.width)] if parts else []
