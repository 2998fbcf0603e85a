"""The time line is a trace that opens: well formed, in order, and every request's lane tells its whole life."""

import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tiny import Oracle
from workload import make_engine

from minillm.debug.recording import read_recording
from minillm.debug.timeline import chrome_trace, kept
from minillm.engine.engine import Engine
from minillm.probe import Event, listen, probe
from minillm.request import SamplingParams

Trace = list[dict[str, Any]]
REQUESTS = 5


def crowded(folder: Path) -> Engine:
    """Seats, pages and a token budget that are too small: chunks, waits and preemptions."""
    engine = make_engine(folder, page_size=4, num_pages=14, max_num_seqs=3, max_num_batched_tokens=12)
    for i in range(REQUESTS):
        params = SamplingParams(temperature=0, max_tokens=10 + 3 * i, ignore_eos=True)
        engine.add_request([5 + i] * (8 + 4 * i), params)
    return engine


@pytest.fixture(scope="module")
def run(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trace, Counter[str], Path]:
    """The time line of a run, how often each probe was heard in it, and its recording."""
    folder, heard = tmp_path_factory.mktemp("timeline"), Counter[str]()

    def hear(event: Event) -> None:
        heard[event.name] += 1
        if event.name == "scheduler.plan":
            heard["rows"] += len(event.plan.rows)

    with kept(folder / "run.jsonl", folder / "run.json"), listen("*", hear):
        engine = crowded(oracle.folder)
        while engine.has_requests:
            engine.step()
    assert not probe.on and heard["scheduler.preempt"], "a run that shows too little"
    return by_the_format((folder / "run.json").read_text(encoding="utf-8")), heard, folder / "run.jsonl"


def lanes(trace: Trace) -> dict[tuple[int, int], Trace]:
    found = defaultdict(list)
    for event in trace:
        if event["ph"] in "Xi":
            found[event["pid"], event["tid"]].append(event)
    return found


def slices(lane: Trace) -> Trace:
    return [event for event in lane if event["ph"] == "X"]


def by_the_format(text: str) -> Trace:
    """The rules of Chrome's trace event format, as far as a file can break them; the events if it breaks none."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    whole = json.loads(text, parse_constant=refuse)
    assert set(whole) == {"traceEvents", "displayTimeUnit"} and whole["displayTimeUnit"] in ("ms", "ns")
    required = {
        "X": {"dur", "args"}, "i": {"s", "args"}, "C": {"args"}, "M": {"args"}, "B": {"args"}, "E": set(),
    }  # fmt: skip
    open_slices: dict[tuple[int, int], list[str]] = defaultdict(list)
    labels = Counter[tuple[str, int, int]]()
    for event in whole["traceEvents"]:
        kind = event["ph"]
        assert set(event) == {"name", "ph", "pid", "tid", "ts"} | required[kind], event
        assert isinstance(event["name"], str) and event["name"]
        # Whole numbers: process and thread above 0 (a system's idle thread has 0), microseconds from 0 on.
        assert all(type(event[key]) is int for key in ("pid", "tid", "ts")) and min(event["pid"], event["tid"]) > 0
        assert type(event.get("dur", 0)) is int and event.get("dur", 0) >= 0 and event["ts"] >= 0
        assert event.get("s", "t") in ("g", "p", "t") and isinstance(event.get("args", {}), dict)
        lane = event["pid"], event["tid"]
        if kind == "B":
            open_slices[lane].append(event["name"])
        elif kind == "E":
            assert open_slices[lane].pop() == event["name"]
        elif kind == "C":
            assert event["args"] and all(type(value) in (int, float) for value in event["args"].values())
        elif kind == "M":
            assert event["name"] in ("process_name", "thread_name") and isinstance(event["args"]["name"], str)
            labels[event["name"], event["pid"], event["tid"] if event["name"] == "thread_name" else 0] += 1
    assert not any(open_slices.values()), "a slice that begins must end"
    assert set(labels.values()) == {1}, "one name each"
    lanes = {(event["pid"], event["tid"]) for event in whole["traceEvents"]}
    assert {(pid, tid) for kind, pid, tid in labels if kind == "thread_name"} == lanes
    assert {pid for kind, pid, _ in labels if kind == "process_name"} == {pid for pid, _ in lanes}
    return whole["traceEvents"]


def well_formed(trace: Trace) -> None:
    named = {(e["pid"], e["tid"]) for e in trace if e["ph"] == "M" and e["name"] == "thread_name"}
    for event in trace:
        assert {"name", "ph", "pid", "tid", "ts"} <= set(event) and event["ph"] in "XiCM"
        assert event["ts"] >= 0 and event.get("dur", 0) >= 0
        assert ("dur" in event) == (event["ph"] == "X") and (event.get("s") == "t") == (event["ph"] == "i")
        assert (event["pid"], event["tid"]) in named
    for lane in lanes(trace).values():
        assert [e["ts"] for e in lane] == sorted(e["ts"] for e in lane)
        open_until: list[float] = []  # slices are apart, or one lies within the other
        for event in slices(lane):
            while open_until and open_until[-1] <= event["ts"]:
                open_until.pop()
            assert not open_until or event["ts"] + event["dur"] <= open_until[-1]
            open_until.append(event["ts"] + event["dur"])


def test_it_is_well_formed(run: tuple[Trace, Counter[str], Path]) -> None:
    trace, heard, _ = run
    well_formed(trace)
    names = {e["args"]["name"] for e in trace if e["name"] == "thread_name"}
    assert names == {"steps"} | {f"request {'ABCDE'[i]} ({i})" for i in range(REQUESTS)}
    assert sum(e["ph"] == "C" for e in trace) == heard["scheduler.plan"]


def test_every_step_has_its_three_parts(run: tuple[Trace, Counter[str], Path]) -> None:
    trace, heard, _ = run
    steps = lanes(trace)[1, 1]
    assert Counter(e["name"] for e in steps if not e["name"].startswith("step ")) == dict.fromkeys(
        ("schedule", "execute", "commit"), heard["engine.step"]
    )
    assert [e["name"] for e in steps if e["name"].startswith("step ")] == [
        f"step {i + 1}" for i in range(heard["engine.step"])
    ]


def test_every_requests_lane_is_complete(run: tuple[Trace, Counter[str], Path]) -> None:
    trace, heard, _ = run
    found = lanes(trace)
    requests = [found[1, i + 2] for i in range(REQUESTS)]
    for lane in requests:
        told = slices(lane)
        assert told[0]["name"] == "waiting" and told[-1]["name"] == "decode"
        # The gap between two slices is no longer than the engine was between them: it neither ran nor waited.
        assert sum(e["name"] == "request.finish" for e in lane) == 1
        assert max(e["ts"] + e["dur"] for e in told) <= max(e["ts"] + e.get("dur", 0) for e in found[1, 1])
    kinds = Counter(e["name"] for lane in requests for e in lane)
    assert kinds["waiting"] == REQUESTS and kinds["preempted"] == heard["scheduler.preempt"]
    assert kinds["prefill"] + kinds["chunk"] + kinds["recompute"] + kinds["decode"] == heard["rows"]
    assert kinds["chunk"] and kinds["kv.allocate"] == heard["kv.allocate"] and kinds["kv.free"] == heard["kv.free"]


def test_a_recording_gives_the_same(run: tuple[Trace, Counter[str], Path]) -> None:
    trace, _, recording = run
    again = chrome_trace(read_recording(recording).records)["traceEvents"]
    assert [(e["name"], e["ph"], e["tid"]) for e in again] == [(e["name"], e["ph"], e["tid"]) for e in trace]


def test_a_run_that_breaks_off_still_has_one(oracle: Oracle, tmp_path: Path) -> None:
    """A step cut short in the middle, an abort, requests that never ended."""

    def cut(event: Event) -> None:
        if event.step == 4:
            raise KeyboardInterrupt

    path = tmp_path / "run.json"
    with pytest.raises(KeyboardInterrupt), kept(None, path), listen("batch.build", cut):
        engine = crowded(oracle.folder)
        engine.abort(4)
        while engine.has_requests:
            engine.step()
    trace = by_the_format(path.read_text(encoding="utf-8"))
    well_formed(trace)
    whole = {e["name"]: e["args"]["whole"] for e in trace if e["ph"] == "X" and e["name"].startswith("step ")}
    assert whole == {"step 1": True, "step 2": True, "step 3": True, "step 4": False}
    assert [e["name"] for e in slices(lanes(trace)[1, 6])] == ["waiting"]


def test_two_engines_are_two_processes(oracle: Oracle, tmp_path: Path) -> None:
    """Requests are numbered from 0 in each; every lane says whose it is."""
    with kept(None, tmp_path / "run.json"):
        for _ in range(2):
            engine = crowded(oracle.folder)
            while engine.has_requests:
                engine.step()
    trace = by_the_format((tmp_path / "run.json").read_text(encoding="utf-8"))
    well_formed(trace)
    assert {e["pid"] for e in trace} == {1, 2}
    assert {e["args"]["name"].split()[1] for e in trace if e["name"] == "process_name"} == {"1", "2"}


def test_an_engine_that_is_one_step_ahead_has_a_lane_for_its_device(oracle: Oracle, tmp_path: Path) -> None:
    """Steps planned before the one before is read, rows that are thrown away, an abort, a step that is lost."""
    path = tmp_path / "run.json"
    stops = set(oracle.greedy([5] * 12, 4)[2:])

    def cut(event: Event) -> None:
        if event.step == 9:
            raise MemoryError

    with kept(tmp_path / "run.jsonl", path), listen("overlap.read", cut):
        engine = make_engine(oracle.folder, async_scheduling=True, max_num_batched_tokens=16)
        for length in (12, 5, 20):
            asked = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True, stop_token_ids=sorted(stops))
            engine.add_request([5] * length, asked)
        leaves = engine.add_request([7, 8], SamplingParams(temperature=0, max_tokens=30, ignore_eos=True))
        failed = 0
        while engine.has_requests:
            try:
                engine.step()
            except MemoryError:
                failed += 1
            if len(leaves.output_ids) == 12 and not leaves.finished:
                engine.abort(leaves.id)
    trace = by_the_format(path.read_text(encoding="utf-8"))
    well_formed(trace)
    assert failed == 1
    names = {e["args"]["name"]: e["tid"] for e in trace if e["name"] == "thread_name"}
    assert {"host", "device"} <= set(names) and "steps" not in names
    host, device = (slices(lanes(trace)[1, names[lane]]) for lane in ("host", "device"))
    first = {e["name"]: e["ts"] for e in host}
    assert first["schedule 2"] < first["read 1"] <= first["commit 1"] < first["schedule 3"] < first["read 2"]
    assert [e["name"] for e in device[:4]] == ["step 1", "step 2", "step 3", "step 4"]
    assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in pairwise(device))
    again = chrome_trace(read_recording(tmp_path / "run.jsonl").records)["traceEvents"]
    assert len(again) == len(trace)


def test_ahead_with_too_few_pages(oracle: Oracle, tmp_path: Path) -> None:
    """Who is preempted waits from then on, though its last step is still under way."""
    path = tmp_path / "run.json"
    with kept(None, path):
        engine = make_engine(oracle.folder, async_scheduling=True, page_size=4, num_pages=14, prefix_cache="none")
        for start, length in ((10, 20), (60, 15)):
            asked = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
            engine.add_request(list(range(start, start + length)), asked)
        while engine.has_requests:
            engine.step()
    assert engine.scheduler.num_preemptions > 0
    trace = by_the_format(path.read_text(encoding="utf-8"))
    well_formed(trace)
    assert Counter(e["name"] for e in trace)["preempted"] == engine.scheduler.num_preemptions


def test_nothing_is_asked_for() -> None:
    with kept(None, None):
        assert not probe.on
