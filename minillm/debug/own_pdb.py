"""Python's own debugger, as a stop opens it where no other debugger is attached.

It takes its commands from stdin, and answers where a person sees it: on stdout, or on the terminal if stdout is a file
or a pipe (``> out.txt``). Without any terminal it answers on stdout, so that a script can drive it.
"""

import os
import pdb
import sys
from types import FrameType
from typing import IO, Any, NoReturn

from minillm.debug.look import looked
from minillm.debug.open_line import fresh_line, is_terminal
from minillm.probe import Event, silence

FIRST = """\
pdb: look (what to watch here), p EXPRESSION, n next line, s into a call,
     ll source, c next stop, q end"""


def stop_in_pdb(event: Event, header: str) -> None:
    """Open pdb at the next line of the event's frame, below ``header``."""
    global _pdb
    if _pdb is None:
        _pdb = _Pdb(where_to_talk())
        fresh_line(_pdb.stdout)
        _pdb.message(FIRST)
    _pdb.stop(event, header)


def where_to_talk() -> IO[str] | None:
    """Where pdb answers: a terminal, by whatever way there is to one. None is stdout: it is one, or there is none."""
    if is_terminal(sys.stdout):
        return None
    if is_terminal(sys.stderr):
        return sys.stderr
    if is_terminal(sys.stdin):
        try:
            return open("CONOUT$" if sys.platform == "win32" else os.ttyname(sys.stdin.fileno()), "w", encoding="utf-8")
        except OSError:  # somebody else's terminal
            pass
    return None


WITH_PROBES = ("minillm.debug.profile_report",)  # of the files in this folder: probes stand in them, as in the engine


class _Pdb(pdb.Pdb):
    """pdb that opens one line on in a given frame, and whose quitting is the program's quiet end."""

    def __init__(self, stdout: IO[str] | None) -> None:
        # Stepping never goes into the probes' own code.
        super().__init__(skip=["minillm.debug.*"], stdout=stdout)
        if hasattr(self.stdout, "reconfigure"):  # a terminal that lacks a character shows ? instead of failing
            self.stdout.reconfigure(errors="replace")
        self._home: FrameType | None = None
        self._probe = self._header = ""

    def is_skipped_module(self, module_name: Any) -> bool:
        return module_name not in WITH_PROBES and bool(super().is_skipped_module(module_name))

    def stop(self, event: Event, header: str) -> None:
        self._home, self._probe, self._header = event.frame, event.name, header
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
        fresh_line(self.stdout)
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
        assert self.curframe is not None
        for line in looked(self._probe, {**self.curframe.f_globals, **self.curframe_locals}):
            self.message(line)

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
