"""Runs lessons, to record what they print or to see whether it is still what was recorded."""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from pages import pictures, runs
from pages.clone import COMMAND, ROOT, lesson_files
from pages.quiet import LIMIT, Others
from pages.runs import Part, Run

USUAL = 30  # seconds that a lesson takes, both times, if it was never recorded


class Failed(RuntimeError):
    """A lesson could not be run, or not be recorded; says why."""


def stale(number: str, counted: list[Part]) -> str | None:
    """In what the recorded run is not what the lesson does now; None if it is the same."""
    try:
        kept = runs.load(number)
    except FileNotFoundError:
        return "was never recorded"
    if not runs.agree(kept.parts, counted):
        return runs.first_difference(kept.parts, counted)
    if kept.pictures != pictures.measure(number):
        return "what its own pictures are drawn from has changed"
    return None


def left_over() -> list[str]:
    """Recorded runs of lessons that are gone."""
    there = lesson_files()
    kept = sorted(runs.FOLDER.glob("lesson_*/run.json"))
    return [path.relative_to(ROOT).as_posix() for path in kept if path.parent.name.removeprefix("lesson_") not in there]


def counting(number: str) -> list[Part]:
    """The lesson's parts as a run with the counting clock prints them."""
    return _parts(_run(number, "--same-clock")["parts"])


def record(number: str, counted: list[Part], began: float, anyway: bool) -> Path:
    """Run the lesson with a real clock, and keep it beside ``counted``. ``began``: when work on this lesson did.

    Failed if other programs ran meanwhile, unless ``anyway``.
    """
    with Others() as others:
        found = _run(number)
    if others.busy > LIMIT and not anyway:
        raise Failed(f"other programs kept {others.busy} processors busy meanwhile; it is not recorded")
    parts = _parts(found["parts"])
    if [part.title for part in parts] != [part.title for part in counted]:
        raise Failed("its parts are others with a real clock than with the counting one")
    for part, same in zip(parts, counted):
        part.counted = same.counted
    about = {"date": date.today().isoformat(), **found["machine"], "others": others.busy}
    about["seconds"] = round(time.perf_counter() - began)
    return runs.save(Run(number, about, parts, pictures=pictures.measure(number)))


def seconds(numbers: list[str]) -> int:
    """About how long it takes to record these lessons: as long as last time."""
    taken = [runs.load(number).about.get("seconds", USUAL) for number in numbers if runs.path_of(number).exists()]
    return sum(taken) + USUAL * (len(numbers) - len(taken))


def _parts(found: list[dict[str, Any]]) -> list[Part]:
    parts = [Part(part["title"], part["lines"], []) for part in found]
    for part in parts:
        part.counted = part.plain
    return parts


def _run(number: str, *options: str) -> dict[str, Any]:
    """What pages/record.py writes of a run; Failed with the lesson's last words if it fails."""
    script = lesson_files()[number]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.json"
        done = subprocess.run(
            [sys.executable, "-m", "pages.record", str(script), str(out), *options],
            cwd=ROOT, env=surroundings(), stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8",
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"{script.name} ended with status {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
        return json.loads(out.read_text(encoding="utf-8"))


def surroundings() -> dict[str, str]:
    """The environment that a lesson is recorded in: the same one wherever that happens.

    Nothing that changes what it does or how wide it prints; and one place for files that it leaves, because it says
    where.
    """
    ours = ("MINILLM_BREAK", "MINILLM_LOG", "MINILLM_MINE", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM")
    found = {key: value for key, value in os.environ.items() if key not in ours}
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "scripts"), os.environ.get("PYTHONPATH")]))
    here = Path(sys.executable).parent  # as in an activated environment: what a lesson tells to type begins with python
    found["PATH"] = os.pathsep.join([str(here), found.get("PATH", "")])
    if os.name == "posix":
        found["TMPDIR"] = "/tmp"
    return found


def command(numbers: list[str]) -> str:
    """What records these lessons anew."""
    return f"{COMMAND} {' '.join(numbers)}".strip()
