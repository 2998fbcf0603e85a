"""Who computes what, and when: seats over steps, and the tokens of each request over time.

A capital letter computes a prompt, a small one writes: what a request does is seen without its colour.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing, in_a_row
from minillm.debug.views.theme import STYLES, VERMILLION, colour, letter
from minillm.debug.views.units import amount

if TYPE_CHECKING:
    from minillm.probe import Event

_LABEL = 9  # columns for "seat 12", "waiting" and what stands between them and the cells
_WANTED = f"bold {VERMILLION} on #331500"  # an idle seat, or a silence, that somebody would rather not have
_PREFILL, _DECODE, _HELD, _IDLE = "prefill", "decode", "held", "idle"


class Cell(NamedTuple):
    """Who has a seat in a step, and what for: ``prefill`` and ``decode``, or ``held`` if nothing of it is computed."""

    request_id: int
    kind: str


@dataclass
class SeatLog:
    """Who sat where in every step, kept as a run goes by: ``with listen("scheduler.plan", log.note): ...``.

    steps: for each step, seat -> Cell; a seat that is not there was idle. waiting: how many still waited in it.
    """

    num_seats: int = 0
    first_step: int = 1
    steps: list[dict[int, Cell]] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)

    def note(self, event: "Event") -> None:
        """Take in one step, from the probe scheduler.plan."""
        if not self.steps:
            self.num_seats, self.first_step = event.scheduler.num_seats, event.plan.step
        seats = {request.seat: Cell(request.id, _HELD) for request in event.scheduler.running}
        for row in event.plan.rows:  # a decode row names no token: it is the one that was sampled last
            seats[row.seat] = Cell(row.request_id, _PREFILL if row.token_ids else _DECODE)
        self.steps.append(seats)
        self.waiting.append(len(event.scheduler.waiting))

    @property
    def seat_steps(self) -> int:
        """All that could have been computed: seats times steps."""
        return self.num_seats * len(self.steps)

    @property
    def idle(self) -> int:
        """How often a seat was idle in a step."""
        return self.seat_steps - sum(len(seats) for seats in self.steps)

    @property
    def idle_while_waiting(self) -> int:
        """How often a seat was idle in a step, though somebody waited."""
        return sum(self.num_seats - len(seats) for seats, waiting in zip(self.steps, self.waiting) if waiting)


def seat_timeline(log: SeatLog, total: int = 0, max_bands: int = 4) -> Drawing:
    """Seats (rows) over steps (columns), and below them how many waited.

    Steps that find no room in a line go on in the next band; beyond ``max_bands``, several steps share a column.
    ``total``: draw to the scale of so many steps, to compare runs of different length.
    """
    seats, waiting, num_seats, first = list(log.steps), list(log.waiting), log.num_seats, log.first_step
    return Drawing(lambda canvas: _draw_seats(canvas, seats, waiting, num_seats, first, total, max_bands))


def _draw_seats(
    canvas: Canvas, steps: list[dict[int, Cell]], waiting: list[int], num_seats: int, first: int, total: int, most: int
) -> Text:
    room = _room(canvas, max(total, len(steps)))
    share = max(math.ceil(max(total, len(steps)) / (room * most)), 1)  # steps in a column
    columns = [slice(start, start + share) for start in range(0, len(steps), share)]
    lines: list[Text] = []
    for start in range(0, len(columns), room):
        band = columns[start : start + room]
        lines.append(_ruler("step", [first - 1 + (start + 10 * (i + 1)) * share for i in range(len(band) // 10)]))
        for seat in range(num_seats):
            lines.append(_label(f"seat {seat}"))
            for column in band:
                cell = _summary([there.get(seat) for there in steps[column]])
                _draw_cell(canvas, lines[-1], cell, worry=any(waiting[column]))
        counts = [max(waiting[column]) for column in band]
        lines += [_label("waiting").append("".join(_digit(count) for count in counts), STYLES["note"]), Text()]
    kinds = {cell.kind for seats in steps for cell in seats.values()}
    if any(len(seats) < num_seats for seats in steps):
        kinds.add(_IDLE)
    notes = [Text(f"one column is {share} steps", STYLES["note"])] if share > 1 else []
    notes.append(Text("0 to 9, + more: how many wait", STYLES["note"]))
    return Text("\n", no_wrap=True, overflow="crop").join([*lines, _legend(canvas, kinds, notes)])


def _summary(cells: Sequence[Cell | None]) -> Cell | None:
    """One cell for a seat's several steps: the first prefill, so that no beginning is lost, else what is there most."""
    for cell in cells:
        if cell and cell.kind == _PREFILL:
            return cell
    return Counter(cells).most_common(1)[0][0]


class Track(NamedTuple):
    """One request's tokens in time, in seconds from the run's start: when it arrived, and when each token came."""

    request_id: int
    arrived: float
    times: Sequence[float]


def token_timeline(tracks: Iterable[Track], until: float = 0.0) -> Drawing:
    """Requests (rows) over time (columns): where a small letter stands, tokens came out.

    ``until``: draw to the scale of so many seconds, to compare runs.
    """
    facts = [Track(track.request_id, track.arrived, list(track.times)) for track in tracks]
    return Drawing(lambda canvas: _draw_tokens(canvas, facts, until))


def _draw_tokens(canvas: Canvas, tracks: list[Track], until: float) -> Text:
    room = _room(canvas)
    last = max([until, *(track.times[-1] for track in tracks if track.times)])
    width = next((size for size in _round_sizes() if last / size < room), last)  # seconds in a column
    used = int(last / width) + 1
    ticks = [amount(10 * (i + 1) * width, "s") for i in range(used // 10)]
    lines, kinds = [_ruler("time", ticks)], set()
    for track in tracks:
        line = _label(f"{letter(track.request_id)}")
        line.stylize(f"bold {colour(track.request_id)}")
        with_token = {int(time / width) for time in track.times}
        born, begun = int(track.arrived / width), min(with_token, default=used)
        for column in range(max(with_token, default=used - 1) + 1):
            kind = _DECODE if column in with_token else _PREFILL if column < begun else _IDLE
            if column < born:
                line.append(" ")
            else:
                kinds.add(kind)
                _draw_cell(canvas, line, None if kind == _IDLE else Cell(track.request_id, kind), worry=True)
        lines.append(line)
    notes = [Text(f"one column is {amount(width, 's')}", STYLES["note"])]
    words = {_PREFILL: "waits for its first token", _DECODE: "token", _IDLE: "no token"}
    return Text("\n", no_wrap=True, overflow="crop").join([*lines, Text(), _legend(canvas, kinds, notes, words)])


def _round_sizes() -> Iterator[float]:
    """1, 1.5, 2, 3 ... ms, and so on to hours."""
    return (digit * 10.0**power for power in range(-3, 6) for digit in (1, 1.5, 2, 3, 4, 5, 6, 8))


def _room(canvas: Canvas, wanted: int = 0) -> int:
    """Columns for cells: what is wanted if that fits, else a multiple of ten, which is easy to count by."""
    room = max(canvas.width - _LABEL, 10)
    return wanted if 0 < wanted <= room else room // 10 * 10


def _label(words: str) -> Text:
    return Text(words.ljust(_LABEL), STYLES["note"] if words.islower() else "")


def _ruler(label: str, ticks: Sequence[int | str]) -> Text:
    """Every tenth column has its number, the last digit above it."""
    return Text(label.ljust(_LABEL) + "".join(f"{tick:>10}" for tick in ticks), STYLES["note"])


def _digit(count: int) -> str:
    return str(count) if count < 10 else "+"


def _draw_cell(canvas: Canvas, line: Text, cell: Cell | None, worry: bool) -> None:
    """Add one column to a line. ``worry``: an idle seat here is one that somebody would like to have."""
    if cell is None:
        line.append(canvas.marks.free, _WANTED if worry else STYLES["free"])
    else:
        line.append(_mark(canvas, cell), _style(cell))


def _mark(canvas: Canvas, cell: Cell) -> str:
    name = letter(cell.request_id)[-1]  # beyond Z letters begin anew: one column has no room for two
    return {_PREFILL: name, _DECODE: name.lower()}.get(cell.kind, canvas.marks.reserved)


def _style(cell: Cell) -> str:
    """A prompt on the request's full colour, its tokens on a darker shade of it."""
    hue = colour(cell.request_id)
    return f"bold #000000 on {hue}" if cell.kind == _PREFILL else f"#FFFFFF on {_shade(hue, 0.5)}"


def _shade(hue: str, light: float) -> str:
    return "#" + "".join(f"{int(int(hue[i : i + 2], 16) * light):02x}" for i in (1, 3, 5))


def _legend(canvas: Canvas, kinds: set[str], notes: list[Text], words: dict[str, str] | None = None) -> Text:
    said = {_PREFILL: "prompt computed", _DECODE: "token", _HELD: "has the seat, waits", _IDLE: "idle", **(words or {})}
    marks = {
        _PREFILL: ("A", _style(Cell(0, _PREFILL))), _DECODE: ("a", _style(Cell(0, _DECODE))),
        _HELD: (canvas.marks.reserved, STYLES["note"]), _IDLE: (canvas.marks.free, _WANTED),
    }  # fmt: skip
    parts = [Text.assemble(marks[kind], f" {said[kind]}") for kind in marks if kind in kinds]
    return in_a_row([*parts, *notes], canvas.width)
