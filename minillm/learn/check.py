"""Runs the checkpoint of exercises against the learner's functions, and says in a few lines what came of it.

The tests are ordinary pytest files in tests/checkpoints: whoever prefers pytest or an editor's test list may run them
there. A process of its own runs them, so that a check always sees the file as it is now.
"""

import ast
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from minillm.learn.checkpoints import Interrupted, Outcome, Wishes, in_words, run_checkpoints
from minillm.learn.home import clone
from minillm.learn.mine import read_mine
from minillm.learn.progress import Progress
from minillm.learn.report import Report
from minillm.learn.source import Source
from minillm.learn.stub import is_stub
from minillm.learn.tasks import Task


def check(tasks: list[Task], console: Console, wishes: Wishes | None = None) -> bool:
    """Test these tasks' functions, print what comes of it, and note what is done. Whether all of it is.

    Where there are several, those that are not begun are one line for all of them.
    """
    texts = {number: read_mine(number).text for number in dict.fromkeys(task.number for task in tasks)}
    unwritten = [task for task in tasks if is_stub(texts[task.number], task)]  # nothing of theirs needs to run
    report = Report(tasks, console)
    wishes = wishes or Wishes()
    wishes = replace(wishes, talk=both(report.talk, wishes.talk))
    if unwritten and len(tasks) == 1:
        for test in tests_of(tasks[0]):
            report.add(Outcome(tasks[0], test, "todo"))
    try:
        for outcome in run_checkpoints([task for task in tasks if task not in unwritten], wishes):
            report.add(outcome)
    except Interrupted:
        report.drop()
        raise
    finally:
        report.close()
    if unwritten and len(tasks) > 1:
        report.still_to_write(unwritten)
    progress = Progress()
    for task in tasks:
        if task in unwritten or report.failed(task):
            progress.forget(task.id, "done")
        elif report.passed(task):
            progress.mark(task.id, "done")
    progress.save()
    return all(progress.done(task.id) for task in tasks)


def both(first: Callable[[bool], None], second: Callable[[bool], None]) -> Callable[[bool], None]:
    def call(opened: bool) -> None:
        first(opened)
        second(opened)

    return call


def tests_of(task: Task) -> list[str]:
    """What a checkpoint tests, in words, without running it."""
    (home,) = Source.read(clone() / task.checkpoint).classes(task.test)
    return [in_words(node.name) for node in home.body if isinstance(node, ast.FunctionDef) and node.name[:5] == "test_"]
