"""Stopping in a caller's frame, on the statement after its probe: in an attached debugger, or in pdb.

Both debuggers are told to stop at the next line *of that frame*. Neither this file nor `probes` is ever seen on the
way: the learner lands in the engine, with the engine's own variables.
"""

import builtins
import importlib
import pdb
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from minillm.debug.catalogue import catalogue
from minillm.debug.probes import Event, silence
from minillm.debug.short import short

HELPERS = "where(request, position), why(request), shapes(), pages(), table(), disarm()"


def stop(event: Event, when: str | None = None) -> None:
    """Stop where ``event`` came from, as soon as its probe has returned. ``when`` is the condition that held."""
    offer_helpers()
    if attached():
        print(header(event, when), file=sys.stderr, flush=True)
        _stop_attached(event.frame)
    else:
        _stop_in_pdb(event, when)


def attached() -> bool:
    """Whether a debugger (VS Code, or anything that speaks its protocol) listens at the other end of debugpy."""
    debugpy: Any = sys.modules.get("debugpy")
    return debugpy is not None and debugpy.is_client_connected()


def offer_helpers() -> None:
    """Make the helpers of `minillm.debug.console` known wherever the program stops, without an import.

    They become builtins: pdb and VS Code's debug console both look there last, and no frame's variables change. They
    are taken in by name because they know the engine, and stand floors above this file.
    """
    console = importlib.import_module("minillm.debug.console")
    for name in console.__all__:
        setattr(builtins, name, getattr(console, name))


def header(event: Event, when: str | None = None) -> str:
    """What a learner must know on arrival: which probe, what happens there, what it was given."""
    file, line = Path(event.frame.f_code.co_filename).name, event.frame.f_lineno
    info = catalogue().get(event.name)
    lines = [f"── {event.name} ── step {event.step} ── {file}:{line} ──"]
    if info:
        lines.append(f"   {info.what}")
    lines += [f"   {key} = {short(value)}" for key, value in event.values.items()]
    if when:
        lines.append(f"   stopped because: {when}")
    lines.append(f"   ask: {HELPERS}")
    return "\n".join(lines)


def _stop_attached(frame: FrameType) -> None:
    """Ask pydevd, the debugger inside debugpy, for a stop at the next line of ``frame``."""
    import pydevd

    pydevd.settrace(suspend=True, trace_only_current_thread=True, patch_multiprocessing=False, stop_at_frame=frame)


def _stop_in_pdb(event: Event, when: str | None) -> None:
    global _pdb
    if _pdb is None:
        _pdb = _Pdb()
        print("pdb: look (what to watch here), p EXPRESSION, n next line, s into a call, ll source, c next stop, q end")
    _pdb.stop(event, when)


class _Pdb(pdb.Pdb):
    """pdb that opens one line on in a given frame, and whose quitting is the program's quiet end."""

    def __init__(self) -> None:
        # Stepping never goes into the probes' own code.
        super().__init__(skip=["minillm.debug.*"])
        if hasattr(sys.stdout, "reconfigure"):  # a terminal that lacks a character shows ? instead of failing
            sys.stdout.reconfigure(errors="replace")
        self._home: FrameType | None = None
        self._probe = self._header = ""

    def stop(self, event: Event, when: str | None) -> None:
        self._home, self._probe, self._header = event.frame, event.name, header(event, when)
        self.set_trace(event.frame)

    def set_step(self) -> None:
        """`set_trace` asks for a stop at the next line anywhere. What is wanted is the next line of one frame."""
        home, self._home = self._home, None
        if home is None:
            super().set_step()
        else:
            self.set_next(home)

    set_stepinstr = set_step  # what set_trace calls from Python 3.13 on

    def interaction(self, *args: Any, **kwargs: Any) -> None:
        shown, self._header = self._header, ""
        if shown:
            self.message(shown)
        if sys.stdin is None or sys.stdin.closed:
            self._end("because there is no input to take commands from")
        super().interaction(*args, **kwargs)

    def do_where(self, arg: str) -> Any:
        """w(here): the stack, the newest frame last. where(request, position): the page and slot of a token."""
        if arg.startswith("("):
            return self.default(f"where{arg}")
        return super().do_where(arg)

    def do_look(self, _arg: str) -> None:
        """look: what to watch at the probe that stopped last, and what must be true there, tried now."""
        info = catalogue()[self._probe]
        for expression, meaning in info.watch.items():
            self.message(f"   {expression} = {self._try(expression)}   ({meaning})")
        for expression, meaning in info.must.items():
            value = self._try(expression)
            self.message(f" {'✓' if value == 'True' else '✗'} {meaning}: {expression} is {value}")

    def _try(self, expression: str) -> str:
        try:
            assert self.curframe is not None
            return short(eval(expression, self.curframe.f_globals, self.curframe_locals))
        except Exception as error:  # one has moved on, to where those names mean nothing
            return f"{type(error).__name__}: {error}"

    def do_quit(self, arg: str) -> bool:
        self._end("as you asked")

    do_q = do_exit = do_quit

    def do_EOF(self, arg: str) -> bool:
        self._end("because the input has ended")

    def _end(self, why: str) -> NoReturn:
        self.set_quit()
        silence()  # what cleans up on the way out comes by probes too, and must not stop there again
        self.message(f"\nminillm: the program ends here, {why}")
        raise SystemExit(0)


_pdb: _Pdb | None = None
