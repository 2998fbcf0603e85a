"""The program that the debugger's tests stop in, as a test: it is what "Checkpoint: current test" is tried on."""

import contextlib
import io

from debug.scheduling import main


def test_three_requests_share_five_pages() -> None:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):  # and not capsys: what a stop says on stderr is for whoever debugs this
        main()
    assert output.getvalue() == "done after 10 steps and 1 preemptions\n"
