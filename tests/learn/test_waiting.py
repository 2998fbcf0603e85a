"""The bar of a long measurement: seen in a terminal, gone at its end, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minillm.learn.timing import time_steps

# A lesson in small: one loop, one bar; a log line comes in between, and a paragraph after it.
PROGRAM = """
import sys
from minillm.debug.open_line import say
from minillm.learn.lesson import Lesson

Lesson._header = lambda lesson: None  # it would come first
lesson = Lesson(7, "A title", turns_on="x", buys="y", breaks="z")
for item in lesson.each("ab", "looking twice"):
    say(f"seen {item}")
with lesson.bar("counting", total=100) as bar:
    for _ in range(100):
        bar.move()
lesson.say("The end.")
"""
TWICE = "looking twice: "


def run(folder: Path, *arguments: str, stdout: int | None, stderr: int) -> "subprocess.CompletedProcess[str]":
    program = folder / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, encoding="utf-8",
        timeout=60, env=environment, check=True,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_in_a_terminal(tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    run(tmp_path, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = os.read(ours, 100_000).decode()
    os.close(ours)
    assert text.count(TWICE) == 3 and "[==========          ] looking twice: 1 of 2" in text
    assert 20 <= text.count("counting: ") <= 22, "it is drawn where it looks different, not a hundred times"
    assert screen(text) == ["seen a", "seen b", "The end."]


def screen(text: str) -> list[str]:
    """The lines as one sees them in the end: what was erased is gone."""
    lines = [line.rpartition("\x1b[K")[2].strip() for line in text.replace("\r\n", "\n").split("\n")]
    return [line for line in lines if line]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_not_with_plain(tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    run(tmp_path, "--plain", stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "\x1b" not in text and "looking" not in text and screen(text) == ["seen a", "seen b", "The end."]


def test_not_without_a_terminal(tmp_path: Path) -> None:
    done = run(tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.stderr == "seen a\nseen b\n" and done.stdout == "The end.\n\n"


def test_the_stop_watch() -> None:
    """It steps to the end, counts what each step had to compute, and says so between the steps."""
    from minillm.learn.workload import ROOMY, make_engine
    from minillm.request import SamplingParams

    engine, between = make_engine(**ROOMY, reuse_kv=False), []
    request = engine.add_request(list(range(20, 30)), SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
    seconds, tokens = time_steps(engine, after_each=lambda: between.append(len(request.output_ids)))
    assert request.finished and len(seconds) == 4 and all(second > 0 for second in seconds)
    assert tokens == 10 + 11 + 12 + 13 and between == [1, 2, 3, 4]
