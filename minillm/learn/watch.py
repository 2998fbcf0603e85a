"""``learn watch``: a lesson's exercises one after the other, each checked at every save, until all are done."""

import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from minillm.learn.check import check
from minillm.learn.checkpoints import Interrupted, Wishes
from minillm.learn.home import my_file, shown
from minillm.learn.keys import Keys
from minillm.learn.mine import MineError
from minillm.learn.overview import hint, standing
from minillm.learn.progress import Progress
from minillm.learn.tasks import Task

INTERVAL = 0.2  # seconds between two looks at the file
WIDTH = 30  # characters of the bar
HELP = {"h": "hint", "n": "next", "d": "diff", "l": "list", "r": "run again", "q": "quit"}


def watch(tasks: list[Task], console: Console, patience: float, rounds: int | None = None) -> None:
    """Until q, Ctrl-C, or ``rounds`` checks were made. Without a terminal there are no keys, and nothing is cleared."""
    with Keys() as keys:
        watcher = Watch(tasks, console, keys, patience)
        try:
            watcher.run(rounds)
        except KeyboardInterrupt:
            console.print()


class Watch:
    """What one watches, and which exercise is the current one: the first that is not done, or where `n` has led."""

    def __init__(self, tasks: list[Task], console: Console, keys: Keys, patience: float) -> None:
        self.tasks, self.console, self.keys = tasks, console, keys
        self.path = my_file(tasks[0].number)
        number, name = tasks[0].number, tasks[0].lesson[3:].replace("_", " ")
        self.name = f"Lesson {number}, {name}" if number.isdigit() else number
        self.current = self._first_open()
        self.seen: object = "nothing yet"
        self.key = ""  # pressed while a check ran
        self.wishes = Wishes(patience, stop=self._disturbed, talk=self._talk)

    def run(self, rounds: int | None) -> None:
        made, due = 0, True
        while rounds is None or made < rounds:
            if due or self._state() != self.seen:
                due = self._round(clear=not due or made == 0)
                made += 1
                continue
            key, self.key = self.key or self.keys.pressed(INTERVAL), ""
            if key == "q":
                return
            due = self._obey(key)
            if not self.keys.there:
                time.sleep(INTERVAL)

    def _round(self, clear: bool) -> bool:
        """One check of the current exercise. Whether another one is due at once: this one is done, or was disturbed."""
        self.seen = self._state()
        self._top(clear)
        tasks = [self.current] if self.current else self.tasks
        try:
            done = check(tasks, self.console, self.wishes)
        except Interrupted:
            return self.key not in ("n", "q", "r")  # a save: again, with what was saved; a key: it comes first
        except MineError as error:
            self.console.print(Text(str(error)), soft_wrap=True)
            done = False
        if done and self.current:
            self.current = self._after(self.current)
            return True  # the next one; behind the last one, all of them once more
        if done:
            words = f"All of {self.name} is done. Race it: python -m minillm learn race {self.tasks[0].number}"
            self.console.print(Text(words, style="good"))
        elif not self.current:
            self.current = self._first_open()
        self._bottom()
        return False

    def _obey(self, key: str) -> bool:
        """What a key asks for. Whether a check is due."""
        if key == "r":
            self.seen = "again"
        elif key == "n":
            self.current = self._after(self.current)
            self.seen = "again"
        elif key == "l":
            self._list()
        elif key in ("h", "d") and self.current:
            self._hint_or_diff(key, self.current)
        return False

    def _hint_or_diff(self, key: str, task: Task) -> None:
        if key == "h":
            hint(task, self.console)
        else:
            from minillm.learn.diff import diff  # here: it takes torch along

            try:
                diff(task, self.console)
            except MineError as error:
                self.console.print(Text(str(error)), soft_wrap=True)
        self._bottom()

    def _list(self) -> None:
        progress = Progress()
        for task in self.tasks:
            mark, words, style = standing(task, progress, self.console.encoding.startswith("utf"))
            here = "  <- this one" if task is self.current else ""
            line = Text.assemble("  ", (mark, style), f" {task.id}  {task.title}  ", (words, "note"), here)
            self.console.print(line, soft_wrap=True)
        self._bottom()

    def _top(self, clear: bool) -> None:
        """A new screen, and how far the lesson is. After an exercise that has passed, what it said stays."""
        if clear and self.keys.there and self.console.is_terminal:
            self.console.clear()
        progress = Progress()
        done = sum(progress.done(task.id) for task in self.tasks)
        filled = WIDTH * done // len(self.tasks)
        bar = f"[{'#' * filled}{'-' * (WIDTH - filled)}]"
        line = f"{self.name}  {bar} {done} of {len(self.tasks)}"
        self.console.print(Text(("" if clear else "\n") + line + "\n", style="title"), soft_wrap=True)

    def _bottom(self) -> None:
        """What may be done now."""
        words = f"watching {shown(self.path)}"
        if not self.keys.there:
            self.console.print(Text(f"\n{words}; Ctrl-C ends\n", style="note"), soft_wrap=True)
            return
        keys = "  ".join(f"{key} {what}" for key, what in HELP.items())
        self.console.print(Text(f"\n{words}\n{keys}", style="note"))

    def _first_open(self) -> Task | None:
        progress = Progress()
        return next((task for task in self.tasks if not progress.done(task.id)), None)

    def _after(self, current: Task | None) -> Task | None:
        """The next one that is not done, around the end; the current one if it is the only one."""
        progress = Progress()
        start = self.tasks.index(current) + 1 if current else 0
        around = [*self.tasks[start:], *self.tasks[:start]]
        return next((task for task in around if not progress.done(task.id)), None)

    def _disturbed(self) -> bool:
        """Asked while a check runs: was the file saved, or a key pressed that ends it? The others wait for its end."""
        self.key = self.keys.pressed() or self.key
        return self.key in ("n", "q", "r") or self._state() != self.seen

    def _talk(self, opened: bool) -> None:
        """A debugger wants the terminal for itself, as other programs know it."""
        if opened:
            self.keys.let_go()
        else:
            self.keys.take()

    def _state(self) -> tuple[int, int] | None:
        """What changes when a file is saved; None while there is none (some editors save by replacing it)."""
        return file_state(self.path)


def file_state(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns, stat.st_size
