"""Runs the checkpoint of exercises against the learner's functions, and says in a few lines what came of it: once, or
again whenever the learner saves.

The tests are ordinary pytest files in tests/checkpoints: whoever prefers pytest or an editor's test list may run them
there. A process of its own runs them, so that a check always sees the file as it is now.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.text import Text

from minillm.learn.home import clone, my_file, shown
from minillm.learn.mine import MineError, probes_left_out, read_mine
from minillm.learn.progress import Progress
from minillm.learn.tasks import Task

PATIENCE = 120  # seconds after which a test is taken for a loop that does not end
INTERVAL = 0.3  # seconds between two looks at the file
MARKS = {"passed": ("✓", "+", "good"), "failed": ("✗", "x", "warn"), "todo": ("○", "o", "note")}


@dataclass
class Outcome:
    """What came of one test: passed, failed or todo; what it says, and the learner's line that it came from."""

    test: str
    state: str
    message: str = ""
    place: str = ""


def check(tasks: list[Task], console: Console, fold: bool = False) -> bool:
    """Test these tasks' functions, print what came of it, and note what is done. Whether all of it is.

    fold: what is not written yet is one line for all of it.
    """
    for number in dict.fromkeys(task.number for task in tasks):
        read_mine(number)  # a file that is no Python needs no test
    outcomes = run_checkpoints(tasks)
    progress = Progress()
    for task in tasks:
        _note(task, outcomes[task.id], progress)
    progress.save()
    unwritten = [task for task in tasks if fold and all(outcome.state == "todo" for outcome in outcomes[task.id])]
    for task in tasks:
        if task not in unwritten:
            _print(task, outcomes[task.id], console)
    if unwritten:
        names = ", ".join(task.id for task in unwritten)
        hint = f"A hint: python -m minillm learn hint {unwritten[0].id}"
        console.print(Text(f"Still to be written: {names}. {hint}", style="note"), soft_wrap=True)
    return all(progress.done(task.id) for task in tasks)


def watch(tasks: list[Task], console: Console, rounds: int | None = None) -> None:
    """Check now, then at every change of the file, until Ctrl-C or until ``rounds`` checks were made."""
    path = my_file(tasks[0].number)
    seen: object = "nothing yet"
    made = 0
    while rounds is None or made < rounds:
        now = _state(path)
        if now == seen:
            time.sleep(INTERVAL)
            continue
        seen = now
        try:
            check(tasks, console, fold=True)
        except MineError as error:
            console.print(Text(str(error)), soft_wrap=True)
        made += 1
        console.print(Text(f"\nwatching {shown(path)}; Ctrl-C ends\n", style="note"))


def _state(path: Path) -> tuple[int, int] | None:
    """What changes when a file is saved; None while there is none (some editors save by replacing it)."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size


def run_checkpoints(tasks: list[Task]) -> dict[str, list[Outcome]]:
    """The outcomes of each task's tests, by its id."""
    if importlib.util.find_spec("pytest") is None:
        raise ValueError(
            "checkpoints are run by pytest, which is not here; in a clone, python3 scripts/start.py setup dev brings "
            "it (or pip install -e '.[dev]')"
        )
    root = clone()
    nodes = [f"{task.checkpoint}::{task.test}" for task in tasks]
    environment = {name: value for name, value in os.environ.items() if name != "MINILLM_MINE"}
    for task in tasks:
        environment |= task.environment
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--junitxml={report}", "-o", "addopts="]
        command += ["--import-mode=importlib", "-o", f"timeout={PATIENCE}", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, "-p", "no:randomly", *nodes], cwd=root, env=environment, capture_output=True, encoding="utf-8"
        )
        if not report.exists():
            raise ValueError(f"pytest could not run the checkpoints:\n{done.stdout}{done.stderr}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    found = {task.id: [_outcome(case, task) for case in cases if _belongs(case, task)] for task in tasks}
    if missing := [id for id, outcomes in found.items() if not outcomes]:
        raise ValueError(f"no checkpoint was run for {', '.join(missing)}:\n{done.stdout}{done.stderr}")
    return found


def _belongs(case: ElementTree.Element, task: Task) -> bool:
    return str(case.get("classname")).endswith(f"test_{task.lesson}.{task.test}")


def _outcome(case: ElementTree.Element, task: Task) -> Outcome:
    test = str(case.get("name")).removeprefix("test_").replace("_", " ")
    if (skipped := case.find("skipped")) is not None:
        return Outcome(test, "todo", skipped.get("message", ""))
    wrong = case.find("failure")
    wrong = case.find("error") if wrong is None else wrong
    if wrong is None:
        return Outcome(test, "passed")
    message = wrong.get("message", "")
    if inside := re.fullmatch(r'failed on (?:setup|teardown) with "(.*)"', message, re.DOTALL):
        message = inside[1]
    message = re.split(r"\nassert |\n  ?\+ ", message)[0].removeprefix("AssertionError: ")
    file = my_file(task.number)
    lines = re.findall(rf"{re.escape(file.name)}:(\d+)", wrong.text or "")
    place = f"{shown(file)}, line {lines[-1]}" if lines and str(file.name) not in message else ""
    return Outcome(test, "failed", message.removeprefix("Failed: "), place)


def _note(task: Task, outcomes: list[Outcome], progress: Progress) -> None:
    if all(outcome.state == "passed" for outcome in outcomes):
        progress.mark(task.id, "done")
    else:
        progress.forget(task.id, "done")


def _print(task: Task, outcomes: list[Outcome], console: Console) -> None:
    """The task, a line for each test, and for those that failed what they say; what was said before is "the same"."""
    console.print(Text(f"{task.id}  {task.title}", style="title"))
    said = set()
    for outcome in outcomes:
        fancy, plain, style = MARKS[outcome.state]
        mark = fancy if console.encoding.startswith("utf") else plain
        again = outcome.state == "failed" and (outcome.message, outcome.place) in said
        note = ("  (the same)", "note") if again else ""
        console.print(Text.assemble("  ", (mark, style), " ", outcome.test, note), soft_wrap=True)
        if outcome.state == "failed" and not again:
            said.add((outcome.message, outcome.place))
            text = outcome.message + (f"\nat {outcome.place}" if outcome.place else "")
            for line in text.splitlines():
                console.print(Text(f"      {line}"), soft_wrap=True)
    console.print(Text("  " + _verdict(task, outcomes)), soft_wrap=True)


def _verdict(task: Task, outcomes: list[Outcome]) -> str:
    states = [outcome.state for outcome in outcomes]
    if "failed" not in states and "todo" in states:
        return f"still to be written in {shown(my_file(task.number))}. A hint: python -m minillm learn hint {task.id}"
    if "failed" in states:
        return f"{states.count('passed')} of {len(states)} pass. A hint: python -m minillm learn hint {task.id}"
    left_out = [name for _, name in probes_left_out(read_mine(task.number), [task])]
    advice = f" Without its probes ({', '.join(left_out)}) the lesson shows less of it." if left_out else ""
    return f"done.{advice} Race it: python -m minillm learn race {task.id}"
