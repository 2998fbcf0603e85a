"""Runs the tests of exercises in a process of their own, and hands on what came of each as soon as it is known.

It watches that process from outside. A test of the learner's that takes too long is asked where it stands and ended,
whatever it is doing: no loop, no lock and no call into C can keep it from that. The tests after it are not run.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from minillm.debug.open_line import is_terminal
from minillm.learn.build import Build
from minillm.learn.explain import dumped, why_died, why_failed, why_stopped
from minillm.learn.home import clone
from minillm.learn.tasks import Task

PATIENCE = 10.0  # seconds of its own that a test may take
LARGER = 6  # so many times that, for a test of a build, which tries many examples
ON_THE_WALL = 6  # so many times that, if other programs have the processor
READY = 60.0  # seconds for what comes before a test: Python, torch, a model
TOO_MUCH = 20_000_000  # bytes that one test may print
LOOK = 0.05  # seconds between two looks at the process
LEFT = "you have left the debugger here"
INSIDE = "minillm.learn.inside"


@dataclass
class Outcome:
    """What came of one test: running, passed, failed, todo, or not run. What it says, and what the learner printed."""

    task: Task
    test: str
    state: str
    message: str = ""
    lines: list[str] = field(default_factory=list)
    printed: str = ""


class Interrupted(Exception):
    """The run was ended because the caller wanted so."""


@dataclass
class Wishes:
    """What the caller has a say in. stop: asked all the time, whether to end the run. talk: told when a debugger opens
    and takes the terminal (True), and when its test has ended (False)."""

    patience: float = PATIENCE
    debug: bool = False
    stop: Callable[[], bool] = lambda: False
    talk: Callable[[bool], None] = lambda opened: None


def run_checkpoints(tasks: list[Task], wishes: Wishes | None = None) -> Iterator[Outcome]:
    """The outcome of each test, in order; also one "running" as it begins. ValueError if they cannot be run."""
    wishes = wishes or Wishes()
    if not tasks:
        return
    if importlib.util.find_spec("pytest") is None:
        raise ValueError(
            "checkpoints are run by pytest, which is not here; in a clone, python3 scripts/start.py setup dev brings "
            "it (or pip install -e '.[dev]')"
        )
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(tasks, Path(folder), wishes)
        try:
            yield from run.outcomes()
        finally:
            run.end()


def in_words(nodeid: str) -> str:
    """``...::test_a_page_is_added`` -> ``a page is added``"""
    return nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")


class _Run:
    """One process, the test that it is at, and the clock of that test."""

    def __init__(self, tasks: list[Task], folder: Path, wishes: Wishes) -> None:
        self.tasks, self.folder, self.wishes = tasks, folder, wishes
        self.left: list[str] = []  # tests that have not begun
        self.current = ""
        self.from_byte = self.told = 0
        self.exit_frames: list[Any] = []
        self.interrupt: Any = None  # who listens to Ctrl-C when no debugger does
        for name in ("events", "stack", "output"):
            (folder / name).touch()
        self.terminal = is_terminal(sys.stdin) and is_terminal(sys.stdout)
        with (folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                self._command(), cwd=clone(), env=self._environment(), stdout=output, stderr=subprocess.STDOUT,
                stdin=None if self.terminal else subprocess.DEVNULL,
            )  # fmt: skip
        self.clock = Clock(self.process.pid, READY)

    def _command(self) -> list[str]:
        nodes = [f"{task.checkpoint}::{task.test}" for task in self.tasks]
        command = [sys.executable, "-u", "-m", "pytest", "-p", INSIDE, "-q", "-s", "--tb=short", "-o", "addopts="]
        command += ["--import-mode=importlib", "-o", "timeout=0", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
        return [*command, "-p", "no:randomly", *nodes]

    def _environment(self) -> dict[str, str]:
        given = {"folder": str(self.folder), "terminal": self.terminal, "pdb": self.wishes.debug}
        kept = {name: value for name, value in os.environ.items() if name not in ("MINILLM_MINE", "PYTEST_ADDOPTS")}
        for task in self.tasks:
            kept |= task.environment
        return {**kept, "PYTHONIOENCODING": "utf-8", "MINILLM_CHECK": json.dumps(given), "PYTEST_TIMEOUT": "0"}

    def outcomes(self) -> Iterator[Outcome]:
        """Until the process has ended, or was ended."""
        ended = False
        while not ended:
            ended = self.process.poll() is not None  # asked first: what it told before is all there then
            for event in self._events():
                yield from self._heard(event)
            if self.wishes.stop():
                raise Interrupted
            if not ended and (why := self._too_long()):
                yield from self._stopped(why)
                return
            time.sleep(0 if ended else LOOK)
        if self.current:
            task = self._task(self.current)
            frames = self.exit_frames or dumped(self._read("stack"))
            yield self._outcome("failed", *why_died(task, self.process.returncode, frames))
            yield from self._not_run()
        elif self.left:
            raise ValueError(f"the tests ended before their end:\n{self._read('output')}")

    def end(self) -> None:
        """The process and what it has started, whatever they are doing."""
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid)
            for one in [*family.children(recursive=True), family]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        self.process.wait()
        self._talk(False)

    def _talk(self, opened: bool) -> None:
        """While a debugger has the terminal, Ctrl-C is for it alone."""
        if opened != (self.interrupt is not None):
            if opened:
                self.interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
            else:
                signal.signal(signal.SIGINT, self.interrupt)
                self.interrupt = None
            self.wishes.talk(opened)

    def _events(self) -> Iterator[dict[str, Any]]:
        with (self.folder / "events").open("rb") as events:
            events.seek(self.told)
            for line in events:
                if not line.endswith(b"\n"):
                    return  # it is being written
                self.told += len(line)
                yield json.loads(line)

    def _heard(self, event: dict[str, Any]) -> Iterator[Outcome]:
        kind = event["event"]
        if kind == "collected":
            self.left = event["tests"]
            if lacking := [one.id for one in self.tasks if not any(self._task(test) is one for test in self.left)]:
                raise ValueError(f"there is no checkpoint for {', '.join(lacking)}")
        elif kind == "start":
            self.current = event["test"]
            self.left.remove(self.current)
            self.from_byte, self.clock = event["output"], Clock(self.process.pid, READY)
            yield Outcome(self._task(self.current), in_words(self.current), "running")
        elif kind == "mine":
            patience = self.wishes.patience * (LARGER if isinstance(self._task(self.current), Build) else 1)
            self.from_byte, self.clock = event["output"], Clock(self.process.pid, patience)
        elif kind == "debugger":
            self.clock.stop()
            self._talk(True)
            (self.folder / "terminal is free").touch()
        elif kind == "end":
            self._talk(False)
            yield self._ended(event)
            if event.get("last"):
                yield from self._not_run()
        elif kind == "exit":
            self.exit_frames = event["frames"]
        elif kind == "broken":
            raise ValueError(f"pytest could not run the checkpoints:\n{event['text']}")
        elif kind == "interrupted" and self.current:
            yield self._outcome("failed", *why_failed(self._task(self.current), event))
            yield from self._not_run()

    def _ended(self, event: dict[str, Any]) -> Outcome:
        state, task = event["state"], self._task(self.current)
        if event.get("kind") == "Exit":
            outcome = self._outcome(state, LEFT, to_byte=event["output"])
        elif state == "failed":
            outcome = self._outcome(state, *why_failed(task, event), to_byte=event["output"])
        else:
            outcome = self._outcome(state, event.get("text", ""), to_byte=event["output"])
        self.current, self.clock = "", Clock(self.process.pid, READY)
        return outcome

    def _too_long(self) -> str:
        """What the process has used up, if it has: time, or paper."""
        if self.clock.stopped:
            return ""
        if (self.folder / "output").stat().st_size - self.from_byte > TOO_MUCH:
            return f"after {TOO_MUCH // 1_000_000} MB of printing"
        return self.clock.out()

    def _stopped(self, after: str) -> Iterator[Outcome]:
        if not self.current:
            raise ValueError(f"{after} the tests were still not ready to run:\n{self._read('output')}")
        task = self._task(self.current)
        yield self._outcome("failed", *why_stopped(task, self._where(), after))
        yield from self._not_run()

    def _where(self) -> list[Any]:
        """Where the process stands. faulthandler answers from within the signal, even if Python itself cannot."""
        if not hasattr(signal, "SIGUSR1"):
            return []
        before = len(self._read("stack"))
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGUSR1)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            time.sleep(0.2)
            if len(text := self._read("stack")) > before:
                time.sleep(0.1)  # all of it
                return list(dumped(self._read("stack")[before:] or text))
        return []

    def _not_run(self) -> Iterator[Outcome]:
        for test in self.left:
            yield Outcome(self._task(test), in_words(test), "not run")
        self.left = []

    def _outcome(self, state: str, message: str = "", lines: list[str] | None = None, to_byte: int = -1) -> Outcome:
        test, self.current = self.current, self.current if state == "running" else ""
        printed = self._read("output", self.from_byte, to_byte)
        return Outcome(self._task(test), in_words(test), state, message, lines or [], printed)

    def _task(self, nodeid: str) -> Task:
        file, test = nodeid.split("::")[:2]
        return next(one for one in self.tasks if file.endswith(f"test_{one.lesson}.py") and test == one.test)

    def _read(self, name: str, start: int = 0, end: int = -1) -> str:
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            return file.read(max(end - start, 0) if end >= 0 else -1).decode(errors="replace")


class Clock:
    """The seconds that a process had for itself, as far as that can be told.

    Where other programs want the processor too, an honest test takes longer, and is no loop. So time counts by the
    processor time that it got, and by the clock on the wall where it did not ask for any: it sleeps, or waits for a
    lock. A process that is looked at too rarely, or mixes both, is judged by the wall in the end.
    """

    def __init__(self, process: int, patience: float) -> None:
        self.patience, self.stopped = patience, False
        self.own = 0.0
        self._process = psutil.Process(process) if psutil.pid_exists(process) else None
        self._began = self._looked = time.monotonic()
        self._used = self._processor_time()

    def stop(self) -> None:
        """For good: a person looks at the process."""
        self.stopped = True

    def out(self) -> str:
        """``after 10 s``, when they are over; otherwise nothing."""
        now = time.monotonic()
        if now - self._looked >= 0.5:
            used = self._processor_time()
            passed, got = now - self._looked, used - self._used
            self.own += min(passed, got) if got > passed / 50 else passed
            self._looked, self._used = now, used
        if self.own >= self.patience:
            return f"after {self.patience:g} s"
        wall = self.patience * ON_THE_WALL
        return f"after {wall:g} s on a busy machine" if now - self._began >= wall else ""

    def _processor_time(self) -> float:
        try:
            times = self._process.cpu_times() if self._process else None
        except psutil.Error:  # it has ended
            times = None
        if times is None:
            return 0.0
        return float(times.user + times.system)
