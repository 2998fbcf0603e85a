"""A step of a trace as a picture in the terminal: time from left to right, and below each range what lies in it."""

from collections.abc import Sequence

from rich.text import Text

from minillm.debug.attribution import is_range
from minillm.debug.kernel_kinds import ALL_KINDS, kind_of
from minillm.debug.spans import DEVICE, HOST, Span
from minillm.debug.views.drawing import Canvas, Drawing, in_a_row
from minillm.debug.views.theme import BLUE, GREEN, ORANGE, PURPLE, SKY, STYLES, VERMILLION, YELLOW
from minillm.debug.views.units import amount

# A letter and a colour for each kind of kernel.
LETTERS = dict(zip(ALL_KINDS, "DPRNMASC."))
_HUES = dict(zip(ALL_KINDS, (GREEN, GREEN, PURPLE, YELLOW, ORANGE, SKY, VERMILLION, BLUE, "dim")))


def trace_lanes(spans: Sequence[Span], start: float, end: float, depth: int = 4) -> Drawing:
    """What the host did between ``start`` and ``end`` (us): ``depth`` lanes of ranges, each within the one above, and
    one of what ran in them, a letter for its kind: a GPU's kernels, or a CPU's operators."""
    inside = [span for span in spans if start <= span.start and span.end <= end]
    lanes = _lanes([span for span in inside if span.category in HOST], depth)
    lanes[depth] = [span for span in inside if span.category in DEVICE] or lanes[depth]
    return Drawing(lambda canvas: _draw(canvas, lanes, start, end))


def _lanes(spans: Sequence[Span], depth: int) -> list[list[Span]]:
    """Ranges by how deep they lie, and last the outermost operators."""
    lanes: list[list[Span]] = [[] for _ in range(depth + 1)]
    stack: list[Span] = []
    for span in spans:
        while stack and stack[-1].end <= span.start:
            stack.pop()
        level = sum(map(is_range, stack))
        if is_range(span):
            if level < depth and span.name not in ALL_KINDS:
                lanes[level].append(span)
        elif not stack or is_range(stack[-1]):
            lanes[depth].append(span)
        stack.append(span)
    return lanes


def _draw(canvas: Canvas, lanes: list[list[Span]], start: float, end: float) -> Text:
    width = min(canvas.width, 116)
    scale = width / max(end - start, 1e-9)
    lines = [_ranges(canvas, lane, start, scale, width) for lane in lanes[:-1] if lane]
    lines.append(_kernels(lanes[-1], start, scale, width))
    middle = amount((end - start) / 1e6, "s")
    lines.append(Text(f"0{middle:>{width - 1}}", STYLES["note"]))
    used = sorted({kind_of(span.name) for span in lanes[-1]}, key=ALL_KINDS.index)
    names = [Text.assemble((LETTERS[kind], _HUES[kind]), f" {kind}") for kind in used]
    return Text("\n").join([*lines, Text(), in_a_row(names, canvas.width)])


def _ranges(canvas: Canvas, lane: list[Span], start: float, scale: float, width: int) -> Text:
    """Each range as ``[name.....]``, as long as it took; one that is too short for a sign is left out."""
    cells = [" "] * width
    for span in lane:
        first, last = int((span.start - start) * scale), min(int((span.end - start) * scale), width)
        room = last - first
        if room < 2:
            continue
        name = span.name if len(span.name) <= room - 2 else span.name.rpartition(" ")[2]
        inner = name[: room - 2].ljust(room - 2, canvas.marks.flat)
        cells[first:last] = f"[{inner}]"
    return Text("".join(cells), no_wrap=True)


def _kernels(lane: list[Span], start: float, scale: float, width: int) -> Text:
    """In each cell the kind that took most of it, or nothing where most of it was nobody's."""
    shares: list[dict[str, float]] = [{} for _ in range(width)]
    for span in lane:
        kind, a, b = kind_of(span.name), (span.start - start) * scale, (span.end - start) * scale
        for cell in range(int(a), min(int(b) + 1, width)):
            covered = min(b, cell + 1) - max(a, cell)
            shares[cell][kind] = shares[cell].get(kind, 0.0) + covered
    line = Text(no_wrap=True)
    for share in shares:
        kind = max(share, key=share.__getitem__, default="")
        line.append(*((LETTERS[kind], _HUES[kind]) if kind and sum(share.values()) > 0.5 else (" ", "")))
    return line
