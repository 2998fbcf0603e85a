"""The host and the device in time, a row for each kind of work: who works, and who waits for whom?

Each cell has the last digit of the step that the work is for, so that the work for one step is found in all rows.
"""

from collections.abc import Sequence

from rich.text import Text

from minillm.debug.loop_clock import DEVICE, Span
from minillm.debug.views.drawing import Canvas, Drawing, in_a_row
from minillm.debug.views.theme import REQUEST_COLOURS, STYLES, VERMILLION
from minillm.debug.views.units import amount

_LABEL = 10  # columns for a row's name and what stands between it and the cells
_ROWS = (("schedule", "schedule"), ("launch", "launch"), ("device", DEVICE), ("commit", "commit"))
_IDLE = f"bold {VERMILLION} on #331500"


def two_lanes(spans: Sequence[Span], first: int, seconds: float) -> Drawing:
    """Host and device from the moment at which step ``first`` is scheduled, for so many seconds."""
    begin = min((span.begin for span in spans if span.step == first), default=0.0)
    facts = [span for span in spans if span.end > begin and span.begin < begin + seconds]
    return Drawing(lambda canvas: _draw(canvas, facts, begin, seconds))


def _draw(canvas: Canvas, spans: list[Span], begin: float, seconds: float) -> Text:
    room = max((min(canvas.width, 120) - _LABEL) // 10 * 10, 10)
    width = seconds / room  # of a cell
    ticks = "".join(f"{amount(float(f'{10 * (i + 1) * width:.2g}'), 's'):>10}" for i in range(room // 10))
    lines = [Text("time".ljust(_LABEL) + ticks, STYLES["note"])]
    for name, what in _ROWS:
        if done := [span for span in spans if span.what == what]:
            cells = _device_cells(done, begin, width, room) if what == DEVICE else _cells(done, begin, width, room)
            lines.append(_line(canvas, name, cells, idle=what == DEVICE))
    legend = [
        Text.assemble(("7", _style(7)), " works for step 7 (17, 27 ...)"),
        Text.assemble((canvas.marks.free, _IDLE), " the device has nothing to do"),
    ]
    return Text("\n", no_wrap=True, overflow="crop").join([*lines, Text(), in_a_row(legend, canvas.width)])


def _cells(spans: list[Span], begin: float, width: float, room: int) -> list[int | None]:
    """For each cell the step that was worked for in it. However short it was, a piece of work has a cell."""
    cells: list[int | None] = [None] * room
    for span in spans:
        first, last = int((span.begin - begin) / width), int((span.end - begin) / width)
        for i in range(max(first, 0), min(max(last, first + 1), room)):
            cells[i] = span.step
    return cells


def _device_cells(spans: list[Span], begin: float, width: float, room: int) -> list[int | None]:
    """The same where what counts is who does nothing: a cell is idle if the device was, for more than half of it."""
    cells: list[int | None] = []
    for i in range(room):
        left, right = begin + i * width, begin + (i + 1) * width
        shares = {span.step: min(span.end, right) - max(span.begin, left) for span in spans}
        most = max(shares, key=lambda step: shares[step])
        cells.append(most if sum(max(share, 0) for share in shares.values()) > width / 2 else None)
    return cells


def _line(canvas: Canvas, name: str, cells: list[int | None], idle: bool) -> Text:
    line = Text(name.ljust(_LABEL))
    for step in cells:
        if step is not None:
            line.append(str(step % 10), _style(step))
        else:
            line.append(canvas.marks.free if idle else " ", _IDLE if idle else "")
    return line


def _style(step: int) -> str:
    return f"bold #000000 on {REQUEST_COLOURS[step % 4]}"
