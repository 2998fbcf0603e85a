"""Heat maps of experts: who of each layer computes how much. Layers go down, experts go across."""

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from minillm.debug.views.compare import bar_text
from minillm.debug.views.drawing import Canvas, Drawing, in_a_row
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import SKY, STYLES, tag
from minillm.debug.views.units import number, percent

if TYPE_CHECKING:
    from minillm.debug.expert_stats import ExpertStats, LayerStats
    from minillm.debug.experts import ExpertTracker

_GROUP = 8  # experts between two gaps, where each is a single mark


def expert_map(tracker: "ExpertTracker", request_id: int | None = None) -> Drawing:
    """Each expert's share of its layer's choices, as a mark that grows with it; of all requests, or of one."""
    shares, layer_ids, top_k = tracker.shares(request_id).tolist(), list(tracker.layer_ids), tracker.top_k
    return Drawing(lambda canvas: _draw(canvas, shares, layer_ids, top_k, request_id))


def _draw(
    canvas: Canvas, shares: list[list[float]], layer_ids: list[int], top_k: int, request_id: int | None
) -> RenderableType:
    most, E = max(map(max, shares)), len(shares[0])
    title = Text.assemble((f"{len(shares)} {_layers(len(shares))} of {E} experts, {top_k} for each token", "title"))
    if request_id is not None:
        title.append(", request ").append_text(tag(request_id))
    label = max(len(str(layer_ids[-1])), len("layer")) + 2
    width = _cell_width(canvas.width - label, E)
    lines = [title, Text()]
    for first in range(0, E, per_band := _per_band(canvas.width - label, E, width)):
        experts = range(first, min(first + per_band, E))
        lines.append(Text("layer".ljust(label) + _heads(experts, width), STYLES["note"]))
        for layer, row in zip(layer_ids, shares):
            line = Text(f"{layer:>5}".ljust(label))
            for expert in experts:
                line.append_text(_cell(canvas, row[expert], most, width))
                line.append(" " if width == 1 and (expert + 1) % _GROUP == 0 else "")
            line.rstrip()
            lines.append(line)
        lines.append(Text())
    return Text("\n", no_wrap=True, overflow="crop").join([*lines, _legend(canvas, most, E)])


def _cell_width(room: int, E: int) -> int:
    """8 with the share in numbers, 4 with a wider mark, or 1: the widest that lets all experts stand in a line."""
    return next((width for width in (8, 4) if E * width <= room), 1)


def _per_band(room: int, E: int, width: int) -> int:
    """How many experts stand beside each other; the rest come below them."""
    if width > 1:
        return E
    groups = max((room + 1) // (_GROUP + 1), 1)
    return min(groups * _GROUP, E)


def _heads(experts: range, width: int) -> str:
    if width > 1:
        return "".join(str(expert).ljust(width) for expert in experts).rstrip()
    return "".join(str(expert).ljust(_GROUP + 1) for expert in experts[::_GROUP]).rstrip()


def _cell(canvas: Canvas, share: float, most: float, width: int) -> Text:
    level = _level(canvas, share, most)
    style = STYLES["free"] if not share else f"bold {SKY}" if share == most else SKY
    mark = Text(level * {8: 2, 4: 3, 1: 1}[width], style)
    if width == 8:
        mark.append(f" {percent(share, 1):>3}", "" if share else STYLES["free"])
    mark.append(" " * (width - mark.cell_len))
    return mark


def _level(canvas: Canvas, share: float, most: float) -> str:
    """The mark of a share: as high as it is a part of the largest; only nothing has the mark of nothing."""
    if not share:
        return canvas.marks.free
    levels = _levels(canvas)
    return levels[min(int(share / most * len(levels)), len(levels) - 1)]


def _levels(canvas: Canvas) -> str:
    """From least to most; none of them is also the mark of nothing."""
    return canvas.marks.levels.strip().replace(canvas.marks.free, "")


def _legend(canvas: Canvas, most: float, E: int) -> Text:
    parts = [
        Text.assemble(
            (_levels(canvas), SKY), (f" share of the layer's choices, up to {percent(most, 1)}", STYLES["note"])
        ),
        Text.assemble((canvas.marks.free, STYLES["free"]), (" never chosen", STYLES["note"])),
        Text(f"all alike would be {100 / E:.3g}% each", STYLES["note"]),
    ]
    return in_a_row(parts, canvas.width)


def layer_balance(tracker: "ExpertTracker") -> Drawing:
    """A row a layer: how evenly its experts are chosen."""
    facts = tracker.get_layer_stats()
    columns = [
        Col("layer", "right"), Col("tokens", "right"), Col("steps", "right", spare=2), Col("busiest", "right"),
        Col("its share", "right", wraps=True), Col("never chosen", "right", wraps=True, spare=1), Col("evenness"),
    ]  # fmt: skip

    def draw(canvas: Canvas) -> RenderableType:
        note = Text("Evenness is the entropy of the shares: 100% if all experts of a layer have equally many tokens.")
        rows = [_layer_row(canvas, stats) for stats in facts]
        return Group(table(canvas, columns, rows), Text(), Text(note.plain, STYLES["note"]))

    return Drawing(draw)


def _layer_row(canvas: Canvas, stats: "LayerStats") -> Cells:
    even = bar_text(canvas, stats.evenness, 1.0, 16 if canvas.width >= 76 else 8)
    even.append(f" {percent(stats.evenness, 1)}")
    return [
        str(stats.layer_id), number(stats.tokens), number(stats.steps),
        "-" if stats.busiest_expert is None else str(stats.busiest_expert), percent(stats.busiest_share, 1),
        str(stats.idle_experts), even,
    ]  # fmt: skip


def top_experts(tracker: "ExpertTracker", k: int = 5) -> Drawing:
    """The experts with the most tokens, of all layers."""
    facts = tracker.get_top_experts(k)
    columns = [
        Col("layer", "right"), Col("expert", "right"), Col("tokens", "right"), Col("share of its layer", wraps=True),
        Col("steps", "right", spare=2), Col("mean weight", "right", wraps=True, spare=1),
        Col("last step", "right", spare=3),
    ]  # fmt: skip
    return Drawing(lambda canvas: table(canvas, columns, [_expert_row(canvas, stats) for stats in facts]))


def _expert_row(canvas: Canvas, stats: "ExpertStats") -> Cells:
    share = bar_text(canvas, stats.share, 1.0, 16 if canvas.width >= 76 else 8)
    share.append(f" {percent(stats.share, 1)}")
    return [
        str(stats.layer_id), str(stats.expert_id), number(stats.tokens), share, number(stats.steps),
        f"{stats.mean_weight:.2f}", str(stats.last_step or "-"),
    ]  # fmt: skip


def _layers(count: int) -> str:
    return "layer" if count == 1 else "layers"
