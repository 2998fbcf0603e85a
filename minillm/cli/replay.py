"""``minillm replay``: go through a recorded run; without a terminal, print one step of it."""

import os
import sys
from pathlib import Path

from rich.text import Text

from minillm.cli.replay_step import draw, engines, find
from minillm.debug.recording import read_recording
from minillm.debug.replay import frames
from minillm.debug.views.theme import STYLES, make_console


def run(path: Path, step: int | None, engine: int | None, plain: bool) -> None:
    """Show the recording: the whole of it in a terminal, else one step."""
    recording = read_recording(path)
    everything = frames(recording.records)
    shown = [frame for frame in everything if engine in (None, frame.engine)]
    if everything and not shown:
        raise ValueError(f"engine {engine} was not recorded; there are\n{engines(everything)}")
    at = find(shown, step)
    talks = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if shown and step is None and not plain and talks:
        from minillm.cli.replay_app import ReplayApp

        ReplayApp(shown, recording.cut).run()
        return
    console = make_console(plain)
    if recording.cut:
        console.print(Text(recording.cut, STYLES["warn"]), soft_wrap=True)
    console.print(draw(shown, at) if shown else "No step was recorded.")
    others = {frame.engine for frame in shown if frame.step == step} - {frame.engine for frame in shown[at : at + 1]}
    if others:
        console.print(Text(f"\nAnother engine has a step {step}, too: --engine N shows its own.", STYLES["note"]))
        console.print(Text(engines(shown), STYLES["note"]), soft_wrap=True)
