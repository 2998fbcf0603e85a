"""What a check prints: each test as it ends, what the learner printed under it, and one failure in full."""

import re
import sys

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from minillm.debug.open_line import ERASE, fresh_line, leave_open
from minillm.learn.checkpoints import Outcome
from minillm.learn.home import my_file, shown
from minillm.learn.mine import probes_left_out, read_mine
from minillm.learn.tasks import Task

MARKS = {"passed": ("✓", "+", "good"), "failed": ("✗", "x", "warn"), "todo": ("○", "o", "note")}
PRINTED = 20  # lines that a test may show of what it printed: its last ones
NUMBERS = re.compile(r"[-+]?\d[\d.,e+-]*")
WIDEST = 200  # characters that are shown of one line of them


class Report:
    """Takes outcomes as they come, task after task. The first failure is told in full, those after it are a line."""

    def __init__(self, tasks: list[Task], console: Console) -> None:
        self.tasks, self.console = tasks, console
        self.outcomes: dict[str, list[Outcome]] = {task.id: [] for task in tasks}
        self.fancy = console.encoding.startswith("utf")
        self.current: Task | None = None
        self.told: Outcome | None = None  # the failure that was shown in full
        self.running = ""

    def add(self, outcome: Outcome) -> None:
        """One more; as soon as a task's last one is told, its verdict is."""
        self._clear()
        if outcome.task is not self.current and outcome.state != "not run":
            self.close()
            self.current = outcome.task
            self.console.print(Text(f"{outcome.task.id}  {outcome.task.title}", style="title"))
        if outcome.state == "running":
            self.running = outcome.test
            return self._status(f"  … {outcome.test}")
        self.outcomes[outcome.task.id].append(outcome)
        if outcome.state != "not run":
            self._line(outcome)

    def talk(self, opened: bool) -> None:
        """A debugger opens, in this test."""
        self._clear()
        if opened:
            self.console.print(Text(f"  stopped in: {self.running}", style="note"))

    def close(self) -> None:
        """The verdict on the task that was shown last."""
        self._clear()
        task, self.current = self.current, None
        if task is not None:
            self._say(self._verdict(task), 2)
            if later := [one.id for one in self.tasks if {o.state for o in self.outcomes[one.id]} == {"not run"}]:
                self._say(f"Not run: {', '.join(later)}.", 0, "note")

    def drop(self) -> None:
        """The run was ended before its end: there is no verdict."""
        self._clear()
        self.current = None

    def passed(self, task: Task) -> bool:
        return {outcome.state for outcome in self.outcomes[task.id]} == {"passed"}

    def failed(self, task: Task) -> bool:
        return bool({outcome.state for outcome in self.outcomes[task.id]} & {"failed", "todo"})

    def still_to_write(self, tasks: list[Task]) -> None:
        hint = f"A hint: python -m minillm learn hint {tasks[0].id}"
        self._say(f"Still to be written: {', '.join(task.id for task in tasks)}. {hint}", 0, "note")

    def _line(self, outcome: Outcome) -> None:
        fancy, plain, style = MARKS[outcome.state]
        text = Text.assemble("  ", (fancy if self.fancy else plain, style), " ", outcome.test)
        if outcome.state == "failed" and self.told:
            text.append(
                self._beside(outcome.message, self.told.message, self.console.width - text.cell_len), style="note"
            )
        self.console.print(text, soft_wrap=True)
        self._printed(outcome.printed)
        if outcome.state == "failed" and not self.told:
            self.told = outcome
            for line in outcome.message.splitlines():
                self._say(line, 6)
            for line in outcome.lines:
                self._say(line, 6, "bold" if line.startswith(" ") else "note")

    def _beside(self, message: str, told: str, room: int) -> str:
        """What a failure after the first one says, on its test's line."""
        if message == told:
            return "  (the same)"
        if NUMBERS.sub("#", message) == NUMBERS.sub("#", told):
            return "  (the same, with other numbers)"
        return self._cut(f": {message.splitlines()[0] if message else ''}", room)

    def _printed(self, printed: str) -> None:
        """Below its test, behind a bar, so that nobody takes it for ours."""
        lines = printed.rstrip().splitlines()
        bar = "      │ " if self.fancy else "      | "
        if len(lines) > PRINTED:
            left_out = f"({len(lines) - PRINTED} lines before these)"
            self.console.print(Text.assemble((bar, "note"), (left_out, "note")), soft_wrap=True)
        for line in lines[-PRINTED:]:
            clean = "".join(c if c.isprintable() else " " if c == "\t" else "?" for c in line)
            self.console.print(Text.assemble((bar, "note"), self._cut(clean, WIDEST)), soft_wrap=True)

    def _say(self, text: str, indent: int, style: str = "") -> None:
        """In a terminal, words wrap below their first line; a pipe gets the line whole."""
        indent += len(text) - len(text.lstrip())
        written = Text(text.lstrip(), style=style)
        if self.console.is_terminal:
            self.console.print(Padding(written, (0, 0, 0, indent), expand=False))
        else:
            self.console.print(Text(" " * indent) + written, soft_wrap=True)

    def _verdict(self, task: Task) -> str:
        states = [outcome.state for outcome in self.outcomes[task.id]]
        hint = f"A hint: python -m minillm learn hint {task.id}"
        if "failed" in states:
            stopped = f", {states.count('not run')} not run" if "not run" in states else ""
            return f"{states.count('passed')} of {len(states)} pass{stopped}. {hint}"
        if "todo" in states:
            return f"still to be written in {shown(my_file(task.number))}. {hint}"
        left_out = [name for _, name in probes_left_out(read_mine(task.number), [task])]
        advice = f" Without its probes ({', '.join(left_out)}) the lesson shows less of it." if left_out else ""
        return f"done.{advice} Race it: python -m minillm learn race {task.id}"

    def _status(self, text: str) -> None:
        """What is running now, gone as soon as there is something to say."""
        if self.console.is_terminal and self.fancy:
            self._clear()
            print(self._cut(text, self.console.width - 1), end="", flush=True)
            leave_open(ERASE, sys.stdout)

    def _clear(self) -> None:
        fresh_line(sys.stdout)

    def _cut(self, text: str, width: int) -> str:
        more = "…" if self.fancy else "..."
        return text if len(text) <= width else text[: max(width - len(more), 0)] + more
