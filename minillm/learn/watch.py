"""Checks a lesson's exercises again whenever the learner saves."""

import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from minillm.learn.check import check
from minillm.learn.home import my_file, shown
from minillm.learn.mine import MineError
from minillm.learn.tasks import Task

INTERVAL = 0.3  # seconds between two looks at the file


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
