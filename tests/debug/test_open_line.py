"""What is said while an answer is printed piece by piece begins a line of its own, and only where both are seen."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from minillm.debug.open_line import ERASE, leave_open, say, stream
stream("An answer")
say("step 1")
say("step 2")
stream(" goes on.\\n")
say("step 3")
stream("")
say("step 4")
print("a bar", end="", file=sys.stderr, flush=True)
leave_open(ERASE, sys.stderr)
say("step 5")
"""
TOGETHER = "An answer\nstep 1\nstep 2\n goes on.\nstep 3\nstep 4\na bar\r\x1b[Kstep 5\n"


def test_in_one_file() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=True
    )
    assert done.stdout.decode() == TOGETHER


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_in_a_terminal() -> None:
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        assert process.wait(timeout=60) == 0
    os.close(theirs)
    assert os.read(ours, 10_000).decode().replace("\r\n", "\n") == TOGETHER
    os.close(ours)


def test_apart_nothing_is_added() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"An answer goes on.\n"
    assert done.stderr.decode() == "step 1\nstep 2\nstep 3\nstep 4\na bar\r\x1b[Kstep 5\n"


def test_streams_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from minillm.debug.open_line import is_terminal, same_place

    with open(os.devnull) as closed:
        pass
    assert not is_terminal(None) and not is_terminal(closed)
    assert not same_place(closed, sys.__stderr__) and not same_place(None, sys.__stderr__)
