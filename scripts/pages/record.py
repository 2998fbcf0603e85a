"""Run one lesson and keep what it prints, part by part; started by pages/traces.py in a process of its own.

    python scripts/pages/record.py lessons/03_paged_attention.py out.json [--same-clock]

With --same-clock, time is counted and not measured: every look at a clock is one millisecond after the last. What the
lesson prints is then the same in every run.
"""

import io
import itertools
import json
import re
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from minillm.debug import spans
from minillm.debug.views.theme import make_console
from minillm.learn import lesson as lessons

WIDTH = 90  # columns: a chapter's text is about as wide, at a size that is still read well

# A terminal's sixteen colours; the lessons' own are exact ones, from minillm/debug/views/theme.py.
COLOURS = ["#1b2430", "#f07178", "#7fd1ae", "#f0e442", "#56b4e9", "#cc79a7", "#6fd3e0", "#dfe5ec"]
THEME = TerminalTheme(
    (27, 36, 48),
    (223, 229, 236),
    [tuple(bytes.fromhex(colour[1:])) for colour in COLOURS],  # type: ignore[misc]
)

SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="-14 -14 {box_width} {box_height}" class="rich-terminal">
<style>
text {{ font: {char_height}px Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace; white-space: pre }}
{styles}
</style>
<rect x="-14" y="-14" width="100%" height="100%" rx="10" fill="#1b2430" stroke="#3a4757"/>
{backgrounds}
<g>{matrix}</g>
</svg>
"""


class Recorder:
    """Stands between a lesson and its console: at each new part, what came before is put away."""

    def __init__(self) -> None:
        self.console = self.make()
        self.parts: list[dict[str, str]] = []
        self.title = "What is set"

    def make(self) -> Console:
        options: dict[str, Any] = {"force_terminal": True, "color_system": "truecolor", "file": io.StringIO()}
        return make_console(width=WIDTH, record=True, **options)

    def put_away(self, next_title: str = "") -> None:
        """The lines recorded so far, without blank ones around them, as text and as a picture."""
        lines = list(Text.from_ansi(self.console.export_text(styles=True)).split("\n"))
        while lines and not lines[0].plain.strip():
            lines.pop(0)
        while lines and not lines[-1].plain.strip():
            lines.pop()
        for line in lines:
            line.rstrip()
        if lines:
            plain = "\n".join(line.plain for line in lines)
            self.parts.append({"title": self.title, "text": plain, "svg": self.picture(lines)})
        self.title = next_title

    def picture(self, lines: list[Text]) -> str:
        canvas = self.make()
        for line in lines:
            canvas.print(line, soft_wrap=True)
        # The sizes are rich's: 20 units a letter's height, 0.61 of it its width, 1.22 a line's height.
        sizes = {"box_width": round(WIDTH * 12.2 + 28, 1), "box_height": round(len(lines) * 24.4 + 28, 1)}
        template = SVG
        for name, size in sizes.items():
            template = template.replace("{" + name + "}", str(size))
        drawn = canvas.export_svg(theme=THEME, code_format=template, unique_id="t")
        return re.sub(r' clip-path="[^"]*"', "", drawn)  # each text has its length already


def same_clock() -> None:
    """Make time a count: a millisecond from one look to the next."""
    ticks = itertools.count(1)
    for name in ("perf_counter", "monotonic", "time", "process_time"):
        setattr(time, name, lambda: next(ticks) * 1e-3)
        setattr(time, name + "_ns", lambda: next(ticks) * 1_000_000)
    time.sleep = lambda seconds: None
    one_thread()
    measured = spans.read_trace
    spans.read_trace = lambda path: counted(measured(path))


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
    Path(out).write_text(json.dumps(recorder.parts), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
