"""The time line of host and device shows what the loop did, in both loops, and fits the console."""

import io
import threading
from itertools import pairwise

import pytest
from tiny import Oracle
from workload import make_engine

from minillm.debug.loop_clock import DEVICE, LoopClock, Span, calmest, gaps, of_device
from minillm.debug.views.theme import make_console
from minillm.debug.views.two_lanes import two_lanes
from minillm.probe import listen
from minillm.request import SamplingParams


def clocked(oracle: Oracle, ahead: bool) -> list[Span]:
    """Two requests of eight tokens."""
    engine = make_engine(oracle.folder, async_scheduling=ahead)
    clock = LoopClock(engine.device)
    with listen(LoopClock.PROBES, clock.note):
        for prompt in ([5, 6, 7], [9, 8]):
            engine.add_request(prompt, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
        while engine.has_requests:
            engine.step()
    return clock.spans()


def of(spans: list[Span], what: str) -> dict[int, Span]:
    return {span.step: span for span in spans if span.what == what}


@pytest.mark.parametrize("ahead", [False, True])
def test_every_step_has_all_its_parts_in_order(oracle: Oracle, ahead: bool) -> None:
    spans = clocked(oracle, ahead)
    for what in ("schedule", "launch", DEVICE, "commit"):
        assert set(of(spans, what)) >= set(range(1, 9)), what
    for step in range(1, 9):
        parts = [of(spans, what)[step] for what in ("schedule", "launch", DEVICE, "commit")]
        assert all(part.begin <= part.end for part in parts)
        assert parts[0].end <= parts[1].begin and parts[1].begin < parts[2].begin and parts[2].end <= parts[3].begin
    device = of_device(spans)
    assert [span.step for span in device] == list(range(1, 9)) and len(gaps(spans)) == 7
    assert all(first.end <= second.begin for first, second in pairwise(device))


def test_only_one_loop_plans_before_it_reads(oracle: Oracle) -> None:
    plain, ahead = clocked(oracle, False), clocked(oracle, True)
    assert all(of(plain, "schedule")[n + 1].begin >= of(plain, "commit")[n].end for n in range(1, 8))
    assert all(of(ahead, "schedule")[n + 1].end <= of(ahead, "commit")[n].begin for n in range(1, 8))
    assert of(ahead, "read") and not of(plain, "read")


def spans_by_hand() -> list[Span]:
    """Steps 7, 8 and 9 of ten seconds each, with two seconds for the host between them."""
    spans = []
    for i in range(3):
        at, step = 12.0 * i, 7 + i
        spans += [Span("schedule", step, at, at + 1), Span("launch", step, at + 1, at + 1.5)]
        spans += [Span(DEVICE, step, at + 1.5, at + 11.5), Span("commit", step, at + 11.5, at + 12)]
    return spans


def drawn(width: int, plain: bool = True) -> str:
    file = io.StringIO()
    make_console(plain, width, file=file).print(two_lanes(spans_by_hand(), 7, 35.0))
    return file.getvalue()


def test_each_cell_has_its_steps_digit() -> None:
    lines = {line.split()[0]: line[10:] for line in drawn(80).splitlines() if line.strip()}
    # 35 seconds in 70 cells.
    assert lines["device"][3:23] == "7" * 20 and lines["device"][:3] == "---" and lines["device"][23:27] == "----"
    assert lines["schedule"].rstrip() == "77" + " " * 22 + "88" + " " * 22 + "99"
    assert lines["launch"][2] == "7" and lines["commit"][23] == "7" and lines["commit"].strip()[-1] == "8"


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_it_fits(width: int) -> None:
    for plain in (True, False):
        assert all(len(line) <= width for line in drawn(width, plain).splitlines())
    assert drawn(width).isascii()


def test_work_that_is_short_has_a_cell_all_the_same() -> None:
    spans = [Span("schedule", 7, 0.0, 0.001), Span(DEVICE, 7, 0.001, 99.0)]
    file = io.StringIO()
    make_console(True, 80, file=file).print(two_lanes(spans, 7, 99.0))
    line = next(line for line in file.getvalue().splitlines() if line.startswith("schedule"))
    assert line.split() == ["schedule", "7"]


def test_the_calmest_steps_are_chosen() -> None:
    spans, at = [], 0.0
    for step, seconds in enumerate([1, 1, 9, 1, 1, 1, 1, 1, 9, 1], 1):
        spans.append(Span(DEVICE, step, at, at + seconds))
        at += seconds
    assert calmest(spans, 3, after=0) in (5, 6)
    assert calmest(spans[:2], 3, after=0) == 1 and calmest([], 3, after=4) == 5


@pytest.mark.gpu
def test_a_gpu_tells_its_own_times(oracle: Oracle) -> None:
    for ahead in (False, True):
        threads = {thread.name for thread in threading.enumerate()}
        engine = make_engine(oracle.folder, device="cuda", dtype="float32", async_scheduling=ahead)
        clock = LoopClock(engine.device)
        with listen(LoopClock.PROBES, clock.note):
            engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
            while engine.has_requests:
                engine.step()
        device = of_device(clock.spans(), after=1)
        assert len(device) >= 6 and all(span.begin <= span.end for span in device)
        made = {thread.name for thread in threading.enumerate()} - threads
        assert "device" not in made, "a GPU needs no thread that stands in for it"
