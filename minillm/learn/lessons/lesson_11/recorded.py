"""Requests that are served while a profiler writes, and the file that it leaves."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from minillm.debug.profile_report import Phase, Profile
from minillm.debug.profiler import recording
from minillm.engine.engine import Engine
from minillm.learn.asking import ask

TOKENS = 16  # that each request writes
KEPT = Path(tempfile.gettempdir()) / "minillm-lesson11.json"  # where the last trace stays


def serve(engine: Engine, prompts: list[list[int]]) -> list[float]:
    """Answer them all, in one batch; the seconds of each decode step."""
    for prompt in prompts:
        ask(engine, prompt, TOKENS)
    seconds = []
    while engine.has_requests:
        start = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def record(engine: Engine, prompts: list[list[int]], path: Path) -> tuple[Profile, Path]:
    """Serve them twice, the second time recorded: the first time of anything is slow."""
    serve(engine, prompts)
    with recording(engine, path) as made:
        serve(engine, prompts)
    return made.profile(), made.path


def undisturbed(profile: Profile) -> Phase:
    """The faster half of the decode steps: something may have come between the others."""
    lengths = {n: end - start for n, (start, end) in profile.windows.items() if profile.facts[n].is_decode}
    order = sorted(lengths, key=lambda n: (lengths[n], n))
    return profile.phase(sorted(order[: (len(order) + 1) // 2]))


def keep(trace: Path) -> Path:
    """Copy the trace to where the reader finds it, after the lesson too."""
    try:
        with _replacing(KEPT) as new:
            shutil.copy(trace, new)
        return KEPT
    except OSError:  # somebody else's
        kept = Path(tempfile.mkdtemp()) / KEPT.name
        shutil.copy(trace, kept)
        return kept


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A new file beside ``path`` that takes its place whole: another run may be doing the same."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def with_and_without(
    engine: Engine, prompts: list[list[int]], rounds: Iterable[int]
) -> tuple[list[float], list[float]]:
    """Seconds of a decode step in each round, the median: with nobody recording, and recorded."""
    plain: list[float] = []
    recorded: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in rounds:
            plain.append(median(serve(engine, prompts)))
            with recording(engine, Path(folder) / f"{turn}.json"):
                recorded.append(median(serve(engine, prompts)))
    return plain, recorded
