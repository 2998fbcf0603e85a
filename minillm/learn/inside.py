"""Inside the process that runs checkpoints: a pytest plugin that tells the check outside what happens, as it happens.

The check gives a folder. ``events`` there gets a line of JSON for everything that happens, and ``stack`` what Python's
faulthandler writes: when the check asks for it by a signal, and when the process crashes. What the learner prints is in
a file too, and each event says how long that file was, so that every test has its own piece of it.

When a debugger opens (`breakpoint()`, a stop at a probe, ``--pdb``), the terminal is the learner's until the test ends.
"""

import faulthandler
import json
import linecache
import os
import pdb as pdb_module
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import pytest

from minillm.learn.home import my_folder
from minillm.probe import attached

VARIABLE = "MINILLM_CHECK"  # {"folder": ..., "terminal": is there one?, "pdb": open it where a test fails?}
LAST_RESORT = 300  # seconds after which a test ends by itself: whoever should have stopped it is gone
Frame = tuple[str, int, str, str]  # file, line, function, the line's text
KEYS = "pdb: p EXPRESSION, n next line, s into a call, ll source, u up, c go on, q end"


class Inside:
    """The plugin. One test runs at a time; what is noted of it is told at its end."""

    def __init__(self, folder: str, terminal: bool, pdb: bool) -> None:
        self.folder, self.terminal, self.post_mortem = Path(folder), terminal, pdb
        self.events = (self.folder / "events").open("a", encoding="utf-8")
        self.stack = (self.folder / "stack").open("a", encoding="utf-8")
        self.output = os.dup(1)
        self.began = 0  # length of the output when the test began
        self.noted: dict[str, Any] = {}
        self.talking = self.talked = False  # a debugger has the terminal, or has had it
        self.quit = False  # by q: the error that comes of it may wear any dress
        self.set_trace = pdb_module.set_trace
        faulthandler.enable(self.stack)
        if hasattr(faulthandler, "register"):
            faulthandler.register(signal.SIGUSR1, self.stack)
        self._listen_to_exits()
        self._listen_to_debuggers()

    def tell(self, event: str, **values: Any) -> None:
        sys.stdout.flush()
        said = {"event": event, "output": os.fstat(self.output).st_size, **values}
        self.events.write(json.dumps(said) + "\n")
        self.events.flush()

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """pytest's own words would stand among the learner's, and among the debugger's."""
        config.pluginmanager.unregister(name="terminalreporter")
        pdb_module.set_trace = self.set_trace

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.tell("collected", tests=[item.nodeid for item in session.items])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.tell("broken", text=str(report.longrepr))

    def pytest_internalerror(self, excrepr: Any) -> None:
        self.tell("broken", text=str(excrepr))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.tell("interrupted", **told(excinfo.value))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.noted = {"state": "passed"}
        self.tell("start", test=nodeid)
        self.began = os.fstat(self.output).st_size
        if attached():
            self.tell("debugger")  # whoever looks through one takes their time
        else:
            faulthandler.dump_traceback_later(LAST_RESORT, exit=True, file=self.stack)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[Any]:
        if fixturedef.argname == "_mine":  # from here on the learner's code runs
            self.tell("mine")
            self.began = os.fstat(self.output).st_size
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
        report: Any = yield
        if call.excinfo and report.skipped and self.noted["state"] == "passed":
            self.noted = {"state": "todo", "text": str(call.excinfo.value)}
        elif call.excinfo and report.failed and self.noted["state"] != "failed":
            error = call.excinfo.value
            self.noted = {"state": "failed", **told(error), **({"kind": "Exit"} if self.quit else {})}
            if self.quit or (self.post_mortem and self._open_at(error)):
                item.session.shouldstop = "the debugger was left"
                self.noted["last"] = True
        return report

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        faulthandler.cancel_dump_traceback_later()
        if self.talking:
            self._switch(self.output)
        self.tell("end", test=nodeid, **self.noted)

    def _listen_to_exits(self) -> None:
        """`os._exit` leaves nothing behind that could say where it was called."""
        leave, here = os._exit, os.getpid()

        def tell_and_leave(status: int) -> Any:
            if os.getpid() == here:
                self.tell("exit", status=status, frames=frames_of(sys._getframe(1)))
            leave(status)

        os._exit = tell_and_leave

    def _listen_to_debuggers(self) -> None:
        """Every pdb comes by `interaction`: breakpoint(), a stop at a probe, and ours for ``--pdb``."""
        if not self.terminal:
            if not attached() and sys.breakpointhook is sys.__breakpointhook__:
                sys.breakpointhook = _passed_over
            return
        interaction = pdb_module.Pdb.interaction

        def with_terminal(debugger: pdb_module.Pdb, *arguments: Any, **named: Any) -> None:
            self._talk()
            try:
                interaction(debugger, *arguments, **named)
            finally:
                self.quit = bool(getattr(debugger, "quitting", False))

        pdb_module.Pdb.interaction = with_terminal  # type: ignore[method-assign, assignment]

    def _talk(self) -> None:
        """Give the terminal to a debugger, as soon as the check outside has let go of it, until the test ends."""
        if self.talking:
            return
        faulthandler.cancel_dump_traceback_later()
        answer = self.folder / "terminal is free"
        answer.unlink(missing_ok=True)
        self.tell("debugger")
        end = time.monotonic() + 5
        while not answer.exists() and time.monotonic() < end:
            time.sleep(0.01)
        name = "CONOUT$" if sys.platform == "win32" else os.ttyname(0)
        terminal = os.open(name, os.O_WRONLY)
        with (self.folder / "output").open("rb") as output:
            output.seek(self.began)
            os.write(terminal, output.read())  # what was printed before the stop is a part of what one sees
        self._switch(terminal)
        os.close(terminal)
        if not self.talked:
            print(KEYS, flush=True)
        self.talked = True

    def _switch(self, target: int) -> None:
        self.talking = target != self.output
        sys.stdout.flush()
        for stream in (1, 2):
            os.dup2(target, stream)

    def _open_at(self, error: BaseException) -> bool:
        """pdb, where the test failed: at the learner's last line if there is any on the way, else in the test. Whether
        it was left by q."""
        if not self.terminal:
            return False
        self._talk()
        print(traceback.format_exception_only(error)[0].splitlines()[0], flush=True)
        debugger = pdb_module.Pdb()
        debugger.reset()
        debugger.interaction(None, _up_to_mine(error.__traceback__))
        return self.quit


def told(error: BaseException) -> dict[str, Any]:
    """An exception as plain data: its kind, its text, and the lines that it came by."""
    text = str(error)
    with suppress(Exception):
        text = error.msg if isinstance(error, pytest.fail.Exception) and isinstance(error.msg, str) else text
    lines = [(frame, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    return {"kind": type(error).__name__, "text": text, "frames": [_frame(frame, line) for frame, line in lines]}


def frames_of(frame: FrameType) -> list[Frame]:
    """The way to a frame, the newest last."""
    return [_frame(one, line) for one, line in traceback.walk_stack(frame)][::-1]


def _frame(frame: FrameType, line: int) -> Frame:
    file = frame.f_code.co_filename
    return file, line, frame.f_code.co_name, linecache.getline(file, line).strip()


def _up_to_mine(trace: TracebackType | None) -> TracebackType | None:
    """The traceback, cut behind the learner's last line: pdb opens at the end of what it is given."""
    steps = []
    while trace is not None:
        steps.append(trace)
        trace = trace.tb_next
    mine = [i for i, step in enumerate(steps) if Path(step.tb_frame.f_code.co_filename).parent == my_folder()]
    tests = [i for i, step in enumerate(steps) if "checkpoints" in step.tb_frame.f_code.co_filename]
    kept: TracebackType | None = None
    for step in reversed(steps[: (mine or tests or [len(steps) - 1])[-1] + 1]):
        kept = TracebackType(kept, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return kept


def _passed_over(*_arguments: Any, **_named: Any) -> None:
    caller = sys._getframe(1)
    print(f"(breakpoint() in line {caller.f_lineno} is passed over: there is no terminal to talk to)")


def pytest_addhooks(pluginmanager: Any) -> None:
    """As early as a plugin can: what is imported after it may change how the process ends, too."""
    given = os.environ.pop(VARIABLE, "")
    if given:
        pluginmanager.register(Inside(**json.loads(given)))
