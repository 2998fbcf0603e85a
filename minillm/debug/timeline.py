"""The time line of a run as Chrome-trace JSON, which https://ui.perfetto.dev opens.

A process an engine; in it one lane for the engine's steps, and one a request: when it waited, and what each step
computed of it. An engine that is one step ahead (overlap scheduling) has two lanes for its steps, the host's and the
device's.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from minillm.debug.open_line import say
from minillm.debug.recorder import Record, Recorder, open_to_write, record
from minillm.debug.recording import engines_of, plan_of
from minillm.debug.timeline_ahead import Flight, Flights
from minillm.debug.views.batch_table import phase
from minillm.debug.views.theme import letter

_STEPS = 1  # the lane of the steps, a thread in the format's words; 0 is a system's idle one, and may not be shown
_REQUEST_0 = 2  # request 0's lane, and so on
_DEVICE = 1_000_000  # behind them all


@contextmanager
def timeline(path: Path) -> Iterator[None]:
    """Write the time line of what happens inside, at the end of it, however it ends."""
    with open_to_write(path) as file:
        records: list[Record] = []
        try:
            with Recorder(records.append):
                yield
        finally:
            json.dump(chrome_trace(records), file)


@contextmanager
def kept(recording: Path | str | None, trace: Path | str | None) -> Iterator[None]:
    """What ``--record`` and ``--timeline`` ask for, each if it was given; at the end, how to look at it."""
    begun = False
    try:
        with _writing(recording, trace):
            begun = True
            yield
    finally:
        if begun and recording:
            say(f"minillm: the run is in {recording}; look at it: python -m minillm replay {recording}")
        if begun and trace:
            say(f"minillm: the time line is in {trace}; drop it on https://ui.perfetto.dev")


@contextmanager
def _writing(recording: Path | str | None, trace: Path | str | None) -> Iterator[None]:
    with ExitStack() as stack:
        if recording:
            stack.enter_context(record(Path(recording)))
        if trace:
            stack.enter_context(timeline(Path(trace)))
        yield


def chrome_trace(records: Sequence[Record]) -> dict[str, Any]:
    """The events of a run, as the format wants them: times in microseconds, each lane in order."""
    engines = {number: _Engine(number, settings) for number, settings in engines_of(records).items()}
    for entry in records:
        engines[entry["engine"]].take(entry)
    events = [event for engine in engines.values() for event in engine.end()]
    names = [event for event in events if event["ph"] == "M"]
    timed = sorted((e for e in events if e["ph"] != "M"), key=lambda e: (e["ts"], -e.get("dur", 0)))
    return {"traceEvents": names + timed, "displayTimeUnit": "ms"}


class _Engine:
    """The lanes of one engine, drawn as its events come by."""

    def __init__(self, number: int, settings: str) -> None:
        self.number, self.settings, self.model = number, settings, ""
        self.events: list[dict[str, Any]] = []
        self.now = 0.0
        self.marks: dict[str, float] = {}  # of the step that is under way: its begin, plan, commit
        self.plan: dict[str, Any] | None = None
        self.step = 0
        self.flights = Flights()  # of an engine that is one step ahead
        self.prompts: dict[int, int] = {}  # request -> tokens of its prompt
        self.waiting: dict[int, tuple[str, float]] = {}  # request -> what its wait is called, since when

    def take(self, entry: Record) -> None:
        name, values, at = entry["name"], entry["values"], entry["time"] * 1e6
        if name == "scheduler.begin":
            self._end_step(self.now, whole=False)  # one that was cut short
            self.flights.away(at)
            self.step, self.marks = entry["step"], {"begin": at}
        self.now = at
        request = values.get("request", {})
        if name == "engine.config":
            self.model = Path(values["folder"]).name
        elif name == "request.add":
            self.waiting[request["id"]] = ("waiting", at)
        elif name in ("scheduler.admit", "request.abort"):
            self._end_wait(request["id"], at)
        elif name == "scheduler.preempt":
            self.waiting[request["id"]] = ("preempted", at)
        elif name == "scheduler.plan":
            self.marks["plan"], self.plan = at, values["plan"]
            self._add(_STEPS, "C", "pages in use", at, args={"pages": values["scheduler"]["pool"]["used"]})
        elif name == "overlap.launch" and self.plan:
            self.flights.launch(Flight(self.step, self.plan, self.marks), at)
            self.marks, self.plan = {}, None
        elif name in ("stream.begin", "stream.end"):
            self.flights.mark("device" if name == "stream.begin" else "done", values["step"], at)
        elif name == "overlap.read":
            if self.marks:  # planned, but nobody had a token to compute
                self._slice(_STEPS, f"schedule {self.step}", self.marks["begin"], at, {"step": self.step})
                self.marks, self.plan = {}, None
            self.flights.away(at)
            self.flights.mark("read", values["step"], at)
        elif name == "scheduler.commit" and self.flights.any:
            self.flights.commit(values["plan"]["step"], at)
        elif name == "scheduler.commit":
            self.marks["commit"] = at
        elif name == "engine.step" and self.flights.landing:
            self._end_flight(self.flights.landing, at, whole=True)
        elif name == "engine.step":
            self._end_step(at, whole=True)
        if request:
            self.prompts[request["id"]] = request["prompt_tokens"]
        if name in ("kv.allocate", "kv.free", "scheduler.preempt", "request.finish", "request.abort"):
            keep = ("pages", "for_request")
            args = {"step": entry["step"], **{key: values[key] for key in keep if key in values}}
            self._add(request["id"] + _REQUEST_0, "i", name, at, s="t", args=args)

    def end(self) -> list[dict[str, Any]]:
        """All of it, with what is still open closed at the last time known, and a name for every lane."""
        self._end_step(self.now, whole=False)
        for flight in self.flights.flying.values():
            self._end_flight(flight, self.now, whole=False)
        for request_id in list(self.waiting):
            self._end_wait(request_id, self.now)
        self._name("process_name", _STEPS, f"engine {self.number} {self.settings or self.model}".strip())
        self._name("thread_name", _STEPS, "host" if self.flights.any else "steps")
        if self.flights.any:
            self._name("thread_name", _DEVICE, "device")
        for request_id in self.prompts:
            self._name("thread_name", request_id + _REQUEST_0, f"request {letter(request_id)} ({request_id})")
        return self.events

    def _end_step(self, end: float, whole: bool) -> None:
        """Draw the step: itself, its three parts, and in each request's lane what was computed of it."""
        if not self.marks:
            return
        begin, args = self.marks["begin"], {"step": self.step, "whole": whole}
        planned = self.marks.get("plan", end)
        computed = self.marks.get("commit", end)
        self._slice(_STEPS, f"step {self.step}", begin, end, args)
        for name, first, last in (
            ("schedule", begin, planned), ("execute", planned, computed), ("commit", computed, end),
        ):  # fmt: skip
            self._slice(_STEPS, name, first, last, {"step": self.step})
        self._rows(self.plan, planned, computed, args)
        self.marks, self.plan = {}, None

    def _end_flight(self, flight: Flight, end: float, whole: bool) -> None:
        """Draw a step of an engine that is one ahead: the host's part in its lane, the device's in the other."""
        args = {"step": flight.step, "whole": whole}
        for part in flight.parts(end, self.flights.landed):
            self._slice(_DEVICE if part.on_device else _STEPS, part.name, part.begin, part.end, args)
            if part.on_device:
                self._rows(flight.plan, part.begin, part.end, args)
        self.flights.landed, self.flights.landing = flight.marks.get("commit", end), None

    def _rows(self, plan: dict[str, Any] | None, begin: float, end: float, args: dict[str, Any]) -> None:
        """In each request's lane, what a step computed of it."""
        for row in plan_of(plan).rows if plan else ():
            told = {**args, "tokens": row.count, "first": row.start, "pages": row.num_pages, "samples": row.samples}
            kind = phase(row, self.prompts.get(row.request_id, row.start + row.count))
            _, since = self.waiting.get(row.request_id, ("", end))  # preempted, before its step was read
            self._slice(row.request_id + _REQUEST_0, kind, begin, max(min(end, since), begin), told)

    def _end_wait(self, request_id: int, at: float) -> None:
        if request_id in self.waiting:
            name, since = self.waiting.pop(request_id)
            self._slice(request_id + _REQUEST_0, name, since, at, {})

    def _slice(self, lane: int, name: str, first: float, last: float, args: dict[str, Any]) -> None:
        self._add(lane, "X", name, first, dur=round(last) - round(first), args=args)

    def _name(self, what: str, lane: int, name: str) -> None:
        self._add(lane, "M", what, 0, args={"name": name})

    def _add(self, lane: int, kind: str, name: str, at: float, **more: Any) -> None:
        # Whole microseconds: a viewer counts in nanoseconds, and what it makes of a fraction may be one too many. Two
        # slices that meet would then overlap, and one of them would not be shown.
        self.events.append({"name": name, "ph": kind, "pid": self.number, "tid": lane, "ts": round(at), **more})
