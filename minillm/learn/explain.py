"""What went wrong in a test, in a few lines: what it says, the learner's line, and where the engine stood around it.

It works on plain data: the frames of an exception, or those that faulthandler wrote of a process that does not answer.
"""

import ast
import linecache
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import minillm
from minillm.learn.home import clone, my_file, shown
from minillm.learn.mine import MineError, read_mine
from minillm.learn.source import Function, Source
from minillm.learn.tasks import Task

Frame = Sequence[Any]  # file, line, function, the line's text
ENGINE = Path(minillm.__file__).resolve().parent
MOST = 3  # of the learner's lines on the way to an error


def why_failed(task: Task, told: dict[str, Any]) -> tuple[str, list[str]]:
    """An exception as its message, and the lines below it."""
    kind, text, frames = told["kind"], told["text"], told["frames"]
    mine = _mine(task, frames)
    if signatures := _signatures(task, text):
        return text.splitlines()[0], signatures
    if "RecursionError" in (kind, *text.split(": ")[0].split()):
        return f"RecursionError: {_loop_of_calls(mine)}", _place(frames, mine)
    if kind in ("AssertionError", "Failed"):
        message = re.split(r"\nassert |\n  ?\+ ", text)[0]
        if missed := re.match(r"DID NOT RAISE <class '(?:[\w.]*\.)?(\w+)'>", message):
            message = f"{missed[1]} was to be raised, and nothing was"
        message = message or kind
        names_it = my_file(task.number).name in message
        return message, [] if names_it else _place(frames, mine) if mine else _where_yours_begins(task)
    if kind == "SystemExit":
        return "your code ends the whole program (exit, quit or SystemExit)", _place(frames, mine)
    message = f"{kind}: {text}" if text else kind
    return message, _place(frames, mine) if mine else [*_elsewhere(frames), *_where_yours_begins(task)]


def why_stopped(task: Task, frames: Sequence[Frame], after: str) -> tuple[str, list[str]]:
    """A test that did not end, by the lines that it was at."""
    mine = _mine(task, frames)
    if mine:
        return f"{after} this line was still running:", _place(frames, mine[-1:])
    where = _elsewhere(frames)
    calls = "your functions return, and what called them goes on and on: do they change what it waits for?"
    return f"{after} the test was still running, at none of your lines: {calls}" if where else (
        f"{after} the test was still running"
    ), [*where, *_where_yours_begins(task)]  # fmt: skip


def why_died(task: Task, status: int, frames: Sequence[Frame]) -> tuple[str, list[str]]:
    """A process that ended in the middle of a test; ``status`` as `subprocess` has it."""
    place = _place(frames, mine[-1:]) if (mine := _mine(task, frames)) else _elsewhere(frames)
    if status == -9:
        return "the system ended the process in this test, as it does when memory runs out", place
    if status < 0:
        return f"the process crashed in this test (signal {-status})", place
    return f"the process ended in the middle of this test, with status {status}", place


def dumped(text: str) -> list[Frame]:
    """The frames of faulthandler's last dump: of the thread that the learner's or the test's lines are in."""
    threads: list[list[Frame]] = []
    for line in text.splitlines():
        if line.endswith("(most recent call first):"):
            threads.append([])
        elif threads and (found := re.match(r'  File "(.+)", line (\d+) in (.+)', line)):
            source = linecache.getline(found[1], int(found[2])).strip()
            threads[-1].insert(0, (found[1], int(found[2]), found[3], source))
    for home in (my_file("00").parent, clone() / "tests" / "checkpoints"):
        for frames in reversed(threads):
            if any(Path(frame[0]).is_relative_to(home) for frame in frames):
                return frames
    return threads[-1] if threads else []


def _mine(task: Task, frames: Sequence[Frame]) -> list[Frame]:
    file = str(my_file(task.number))
    return [frame for frame in frames if frame[0] == file]


def _place(frames: Sequence[Frame], mine: Sequence[Frame]) -> list[str]:
    """The learner's lines on the way, then where the engine was left or entered by them."""
    lines = [row for frame in _once(mine)[-MOST:] for row in _line("at", frame)]
    if not mine:
        return lines
    first, last = frames.index(mine[0]), len(frames) - 1 - list(frames)[::-1].index(mine[-1])
    if inside := [frame for frame in frames[last + 1 :] if _engines(frame)]:
        lines += _line("which goes on in", inside[-1])
    if around := [frame for frame in frames[:first] if _engines(frame)]:
        lines += _line("called by", around[-1])
    return lines


def _elsewhere(frames: Sequence[Frame]) -> list[str]:
    """No line of the learner's is on the way: the engine's, or the test's, that it stood at."""
    known = [frame for frame in frames if _engines(frame)] or [f for f in frames if "checkpoints" in str(f[0])]
    return _line("at", known[-1]) if known else []


def _engines(frame: Frame) -> bool:
    path = Path(frame[0])
    return path.is_relative_to(ENGINE) and not path.is_relative_to(ENGINE / "learn")


def _line(word: str, frame: Frame) -> list[str]:
    file, number, function, source = frame
    where = "" if function == "<module>" else f", in {function.rpartition('.')[2]}"
    return [f"{word} {shown(Path(file))}, line {number}{where}:", *([f"    {source}"] if source else [])]


def _where_yours_begins(task: Task) -> list[str]:
    node = _yours(task)
    return [f"yours: {shown(my_file(task.number))}, line {node.lineno}, {task.qualname}"] if node else []


def _yours(task: Task) -> Function | None:
    try:
        return next(iter(read_mine(task.number).find(task.qualname)), None)
    except MineError:
        return None


def _signatures(task: Task, text: str) -> list[str]:
    """Python says that the learner's function does not take what it is given: both first lines."""
    said = rf"\b{re.escape(task.name)}\(\) (takes|missing|got)\b"
    if not task.target or not re.search(said, text.partition("\n")[0]) or not (yours := _yours(task)):
        return []
    theirs = Source.of_module(task.module).find(task.qualname)[0]
    place = f"{shown(my_file(task.number))}, line {yours.lineno}"
    return [f"the engine calls:  {_head(theirs)}", f"yours is:          {_head(yours)}", f"at {place}"]


def _head(node: Function) -> str:
    return f"def {node.name}({ast.unparse(node.args)})"


def _loop_of_calls(mine: Sequence[Frame]) -> str:
    names = list(dict.fromkeys(frame[2] for frame in mine)) or ["something"]
    ends = "without an end"
    return f"{names[0]} calls itself {ends}" if len(names) == 1 else f"{', '.join(names)} call each other {ends}"


def _once(frames: Sequence[Frame]) -> list[Frame]:
    return list({(frame[0], frame[1]): frame for frame in frames}.values())
