"""The rows of a step that is about to be replayed: whose each is, and what stands in its buffers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from minillm.debug.views.drawing import Drawing
from minillm.debug.views.table import Cells, Col, drawn
from minillm.debug.views.theme import STYLES, tag

if TYPE_CHECKING:
    from minillm.request import Request
    from minillm.worker.graphs import DecodeGraphs


def replay_rows(graphs: "DecodeGraphs", count: int, size: int, running: "Sequence[Request]") -> Drawing:
    """A line a row: ``count`` rows of requests, and the padding up to ``size``. ``running``: who has which seat."""
    by_seat = {request.seat: request.id for request in running}
    seats, positions, slots, _ = graphs.rows[:, :size].tolist()
    lengths = graphs.lengths[:size].tolist()
    rows: list[Cells] = []
    for row, facts in enumerate(zip(seats, positions, slots, lengths)):
        seat = facts[0]
        who = tag(by_seat[seat]) if row < count and seat in by_seat else Text("nobody", STYLES["note"])
        style = "" if row < count else STYLES["note"]
        rows.append([str(row), who, *(Text(str(value), style) for value in facts)])
    columns = [Col("row", "right"), Col("whose"), *(Col(c, "right") for c in ("seat", "position", "slot", "length"))]
    return drawn(columns, rows)
