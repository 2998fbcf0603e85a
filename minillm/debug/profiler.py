"""Profiling: what every kernel did, and when, with our own names for steps and layers around it.

torch's profiler records; the file that it writes is a Chrome trace, which https://ui.perfetto.dev opens, and holds
besides what we know of each step. `Profile.of(read_trace(path))` is everything that we say about it.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from minillm.debug.device_speed import copy_speed, name_of, wait_for
from minillm.debug.open_line import say
from minillm.debug.profile_report import KEY, Profile, told
from minillm.debug.ranges import named_ranges
from minillm.debug.spans import read_trace
from minillm.debug.step_work import StepFacts, shape_of

if TYPE_CHECKING:
    from minillm.engine.engine import Engine

MOST_STEPS = 100  # of one trace: more would be a large file that tells nothing new
ONLY_NAMES = "nvtx"  # in place of a file: ranges for another profiler to record, and no trace of ours


class Recording:
    """A profile that is being made. ``path``: the trace, once it is there; `profile` reads it."""

    def __init__(self, engine: "Engine", path: Path, steps: int) -> None:
        self.engine, self.path, self.steps = engine, path, steps
        self.facts: list[StepFacts] = []
        self._limit = copy_speed(engine.device)  # before anything runs beside it
        self._open = ExitStack()
        self._torch: Any = None

    def start(self) -> None:
        # Two lines about its own state that nobody asked for; read once, when the first profiler of a process starts.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self.engine.device.type == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        wait_for(self.engine.device)
        self._torch = torch.profiler.profile(activities=kinds)
        self._open.enter_context(self._torch)
        self._open.enter_context(named_ranges(self.engine, self.facts.append))
        self._open.enter_context(self._counted())

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Inside, the recording ends by itself after as many steps as it is to have."""
        step, done = self.engine.step, 0

        def counted() -> Any:
            nonlocal done
            outputs = step()
            done += 1
            if done == self.steps:
                self.stop()
            return outputs

        vars(self.engine)["step"] = counted
        try:
            yield
        finally:
            vars(self.engine)["step"] = step

    def stop(self) -> None:
        """End it, and write the trace; nothing the second time."""
        recorder, self._torch = self._torch, None
        if recorder is None:
            return
        wait_for(self.engine.device)
        facts = told(name_of(self.engine.device), self._limit, shape_of(self.engine), self.facts)
        recorder.add_metadata_json(KEY, json.dumps(facts))
        self._open.close()
        recorder.export_chrome_trace(str(self.path))

    def profile(self) -> Profile:
        """What the trace says."""
        return Profile.of(read_trace(self.path))


@contextmanager
def recording(engine: "Engine", path: Path | str, steps: int = MOST_STEPS) -> Iterator[Recording]:
    """Record the first ``steps`` steps that ``engine`` makes inside; at the end the trace is in ``path``."""
    made = Recording(engine, file_for(Path(path)), steps)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def profiled(
    engine: "Engine", target: Path | str | None, show: Callable[[Profile], None], name: str = "profile"
) -> Iterator[None]:
    """What ``--profile`` asks for, if it was given: record, then ``show``, and say where the trace is. In a folder the
    file is called ``name``."""
    if target is None:
        yield
    elif str(target) == ONLY_NAMES:
        with named_ranges(engine):
            yield
    else:
        with recording(engine, file_for(Path(target), name)) as made:
            yield
        if made.facts:
            show(made.profile())
            say(f"minillm: the trace is in {made.path}; drop it on https://ui.perfetto.dev")


def file_for(path: Path, name: str = "profile") -> Path:
    """The trace's file: ``path`` itself if that ends in .json or .json.gz, else ``name`` in the folder ``path``, which
    is made. ValueError if it cannot be written."""
    if not path.name.endswith((".json", ".json.gz")):
        path = path / f"{name}.json"
    if not path.parent.parent.is_dir():  # a folder is made, but not all the way to it: that would be a typing error
        raise ValueError(f"cannot write {path}: there is no folder {path.parent.parent}")
    try:
        path.parent.mkdir(exist_ok=True)
        path.open("w").close()
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None
    return path
