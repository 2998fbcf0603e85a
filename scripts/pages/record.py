"""Run one lesson and keep what it prints, part by part; started by pages/recorder.py in a process of its own.

    PYTHONPATH=scripts python -m pages.record lessons/03_paged_attention.py out.json [--same-clock]

With --same-clock, time is counted and not measured: every look at a clock is one millisecond after the last. What the
lesson prints is then the same in every run.
"""

import itertools
import json
import platform
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from pages.picture import Line, spans, terminal
from rich.text import Text

from minillm.debug import spans as profiled
from minillm.debug.device_speed import name_of
from minillm.learn import lesson as lessons


class Recorder:
    """Stands between a lesson and its console: at each new part, what came before is put away."""

    def __init__(self) -> None:
        self.console = terminal()
        self.parts: list[dict[str, Any]] = []
        self.title = "What is set"

    def put_away(self, next_title: str = "") -> None:
        """The lines recorded so far, without blank ones around them."""
        lines: list[Line] = [spans(line) for line in Text.from_ansi(self.console.export_text(styles=True)).split("\n")]
        while lines and not lines[0]:
            lines.pop(0)
        while lines and not lines[-1]:
            lines.pop()
        if lines:
            self.parts.append({"title": self.title, "lines": lines})
        self.title = next_title


def same_clock() -> None:
    """Make time a count: a millisecond from one look to the next."""
    ticks = itertools.count(1)
    for name in ("perf_counter", "monotonic", "time", "process_time"):
        setattr(time, name, lambda: next(ticks) * 1e-3)
        setattr(time, name + "_ns", lambda: next(ticks) * 1_000_000)
    time.sleep = lambda seconds: None
    one_thread()
    measured = profiled.read_trace
    profiled.read_trace = lambda path: counted(measured(path))


def counted(trace: dict[str, Any]) -> dict[str, Any]:
    """A profiler has a clock of its own. Here every begin and every end of a span is a microsecond after the last."""
    timed = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    edges = [(event["ts"], 1, -event["dur"], i) for i, event in enumerate(timed)]
    edges += [(event["ts"] + event["dur"], 0, -event["ts"], i) for i, event in enumerate(timed)]
    begun: dict[int, int] = {}
    for count, (_, begins, _, i) in enumerate(sorted(edges)):
        if begins:
            begun[i] = count
        else:
            first = begun.get(i, count)
            timed[i] |= {"ts": first, "dur": max(count - first, 1)}
    return trace


def one_thread() -> None:
    """The count is the same in every run only if one thread looks at it: with overlap scheduling on a CPU, a step is
    computed when it is launched."""
    from minillm.worker.stream import CpuStream, Queued, compute

    def launch(stream: CpuStream, plan: Any) -> Queued:
        queued = Queued(stream.runner.prepare(plan))
        compute(stream.runner, queued)
        return queued

    CpuStream.launch = launch  # type: ignore[method-assign]


def machine() -> dict[str, Any]:
    """What times depend on."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": name_of(torch.device("cpu")),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def main(script: str, out: str, *options: str) -> None:
    recorder = Recorder()
    lessons.make_console = lambda *plain, **settings: recorder.console  # type: ignore[attr-defined]
    begin_part = lessons.Lesson.part

    def part(lesson: lessons.Lesson, title: str) -> None:
        recorder.put_away(title)
        begin_part(lesson, title)

    lessons.Lesson.part = part  # type: ignore[method-assign]
    sys.argv = [script]
    if "--same-clock" in options:
        same_clock()
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    recorder.put_away()
    found = {"machine": machine(), "parts": recorder.parts}
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
