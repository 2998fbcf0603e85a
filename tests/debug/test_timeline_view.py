"""The time lines show what the run's plans and clocks say, and fit the console."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from rich.cells import cell_len
from rich.console import RenderableType
from tiny import Oracle
from workload import make_engine

from minillm.debug.views.theme import letter, make_console
from minillm.debug.views.timeline import Cell, SeatLog, Track, seat_timeline, token_timeline
from minillm.probe import Event, listen
from minillm.request import SamplingParams

WIDTHS = (40, 80, 120)


@dataclass
class Scene:
    """A run with arrivals, chunks and preemptions; what its plans say, noted here a second time."""

    log: SeatLog = field(default_factory=SeatLog)
    expected: list[dict[int, str]] = field(default_factory=list)  # step -> seat -> mark
    waiting: list[int] = field(default_factory=list)
    preemptions: int = 0


@pytest.fixture(scope="module")
def scene(oracle: Oracle) -> Scene:
    """Seven requests, three seats, pages and a token budget that are too small."""
    engine = make_engine(oracle.folder, page_size=4, num_pages=20, max_num_seqs=3, max_num_batched_tokens=12)
    made, coming, writing = Scene(), list(range(7)), set()  # writing: who got a token since it took its seat

    def note(event: Event) -> None:
        writing.difference_update(row.request_id for row in event.plan.rows if row.joins)
        marks = {row.seat: letter(row.request_id) for row in event.plan.rows}
        writers = {row.seat for row in event.plan.rows if row.request_id in writing}
        made.expected.append({seat: mark.lower() if seat in writers else mark for seat, mark in marks.items()})
        made.waiting.append(len(event.scheduler.waiting))

    def wrote(event: Event) -> None:
        writing.add(event.request.id)

    with listen("scheduler.plan", made.log.note), listen("scheduler.plan", note), listen("request.token", wrote):
        while coming or engine.has_requests:
            for _ in range(3 if len(coming) == 7 else bool(coming)):
                i = coming.pop(0)
                asked = SamplingParams(temperature=0, max_tokens=12 + 4 * i, ignore_eos=True)
                engine.add_request([5 + i] * (8 + 3 * i), asked)
            engine.step()
    made.preemptions = engine.scheduler.num_preemptions
    return made


def show(view: RenderableType, width: int = 80, plain: bool = True, **options: object) -> str:
    file = io.StringIO()
    make_console(plain, width, file=file, **options).print(view)
    return file.getvalue()


def rows(text: str) -> dict[str, str]:
    """Label -> its cells, put together from all bands."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        label = line[:9].strip()
        if re.fullmatch(r"seat \d+|waiting|[A-Z]", label):
            found[label] = found.get(label, "") + line[9:].rstrip()
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_seats_over_steps_are_the_plans(scene: Scene, width: int) -> None:
    assert scene.preemptions > 0, "the scene should have a request that comes back"
    found = rows(show(seat_timeline(scene.log, max_bands=99), width))
    for seat in range(3):
        assert found[f"seat {seat}"] == "".join(marks.get(seat, "-") for marks in scene.expected)
    assert found["waiting"] == "".join(map(str, scene.waiting))
    assert scene.log.seat_steps == 3 * len(scene.expected)
    assert scene.log.idle == sum(3 - len(marks) for marks in scene.expected) == "".join(found.values()).count("-")
    some = zip(scene.expected, scene.waiting)
    assert scene.log.idle_while_waiting == sum(3 - len(marks) for marks, waiting in some if waiting)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_ruler_counts_steps(scene: Scene, width: int) -> None:
    lines = show(seat_timeline(scene.log, max_bands=99), width).splitlines()
    seen = 0
    for ruler, seat in pairwise(lines):
        if ruler.startswith("step"):
            for tick in re.finditer(r"\d+", ruler):
                assert seen + tick.end() - 9 == int(tick[0])
            seen += len(seat[9:].rstrip())
    assert seen == len(scene.expected)


def all_views(scene: Scene) -> Iterator[RenderableType]:
    yield seat_timeline(scene.log)
    yield seat_timeline(scene.log, total=400, max_bands=2)
    yield seat_timeline(SeatLog())
    yield token_timeline([Track(0, 0.0, [0.1, 0.2]), Track(30, 0.15, [1.9]), Track(2, 1.0, [])], until=2.5)
    yield token_timeline([])


@pytest.mark.parametrize("width", WIDTHS)
def test_they_fit_and_are_plain_if_asked(scene: Scene, width: int) -> None:
    for view in all_views(scene):
        plain = show(view, width)
        assert plain.isascii() and "\x1b" not in plain
        colour = show(view, width, False, force_terminal=True, color_system="truecolor")
        bare = re.sub(r"\x1b\[[\d;]*m", "", colour)
        assert bare == show(view, width, False), "colour adds nothing but colour"
        assert max(cell_len(line) for line in (plain + bare).splitlines()) <= width, bare


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_run_shares_columns_and_loses_no_beginning(width: int) -> None:
    steps = [{0: Cell(0, "prefill" if i in (7, 500) else "decode"), 1: Cell(1, "held")} for i in range(900)]
    text = show(seat_timeline(SeatLog(3, 1, steps, [12 if i == 450 else 0 for i in range(900)]), max_bands=2), width)
    share = int(re.search(r"one column is (\d+) steps", text)[1])
    found = rows(text)
    assert len(found["seat 0"]) == -(-900 // share)
    assert [i for i, mark in enumerate(found["seat 0"]) if mark == "A"] == [7 // share, 500 // share]
    assert set(found["seat 1"]) == {"."} and "has the seat" in text
    assert set(found["seat 2"]) == {"-"}
    assert found["waiting"].index("+") == 450 // share


def test_runs_are_drawn_to_one_scale() -> None:
    steps = [{0: Cell(0, "decode")}] * 30
    text = show(seat_timeline(SeatLog(1, 1, steps, [0] * 30), total=4 * 70, max_bands=1), 80)
    share = int(re.search(r"one column is (\d+) steps", text)[1])
    assert share == 4 and len(rows(text)["seat 0"]) == 8


def test_tokens_stand_where_they_came() -> None:
    track = Track(1, 0.010, [0.0305, 0.0405, 0.0425, 0.0595])
    text = show(token_timeline([track, Track(0, 0.0, [0.0005])], until=0.0595))
    assert "one column is 1 ms" in text and "10 ms" in text.splitlines()[0]
    found = rows(text)
    assert found["B"] == " " * 10 + "B" * 20 + "b" + "-" * 9 + "b-b" + "-" * 16 + "b"
    assert found["A"] == "a"
    wide = rows(show(token_timeline([track], until=0.6)))["B"]
    assert wide == " B" + "Bbb-b" if "one column is 10 ms" in text else len(wide) < 10
    waits = rows(show(token_timeline([Track(0, 0.0, [])], until=0.02)))["A"]
    assert set(waits) == {"A"}, "no token yet: it waits to the end"
