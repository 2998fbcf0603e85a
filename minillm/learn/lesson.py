"""What every lesson script shares: its options, its console, and the engine that it runs.

A script makes its `Lesson` before it imports what is heavy: the header is on the screen at once, while torch loads.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from rich.console import RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from minillm.debug.open_line import fresh_line
from minillm.debug.views.drawing import Drawing
from minillm.debug.views.theme import make_console
from minillm.learn.registry import lessons as places
from minillm.learn.timing import Bar, each
from minillm.learn.todo import Todo

Item = TypeVar("Item")

GPU_SHARE = 0.25  # of its memory, for each engine: some lessons hold three of them


class Lesson:
    """One lesson: ``lesson = Lesson(3, "Paged attention", ...)`` prints its header, ``lesson.run(main)`` runs it.

    Between the two the script imports what it needs. What is wrong in its options is said before that.

    turns_on: the settings that are new, as text. buys: what they are good for. breaks: the probes worth stopping at
        first. model: what it runs unless the reader says ``--model``.
    """

    def __init__(
        self, number: int, title: str, turns_on: str, buys: str, breaks: str, model: str = "nano-llama"
    ) -> None:
        self.number, self.title, self.turns_on, self.buys, self.breaks = number, title, turns_on, buys, breaks
        self.model = model
        self.options = self._parse()
        self.console = make_console(self.options.plain)
        self._parts = 0
        self._hook_before, sys.excepthook = sys.excepthook, self._while_importing
        self._header()
        self._armed = self._arm()

    def run(self, main: Callable[[], None]) -> NoReturn:
        """Run the lesson's function, its breakpoints armed; end the program with a status and never a traceback."""
        sys.excepthook = self._hook_before
        try:
            from minillm.debug.timeline import kept  # here, and so below: the header does not wait for torch

            with self._armed, kept(self.options.record, self.options.timeline), self._mine(), self._quiz():
                main()
            status = 0
        except (Todo, KeyboardInterrupt, BrokenPipeError, ValueError, FileNotFoundError) as error:
            status = self._told(error)
        sys.exit(status)

    def _told(self, error: BaseException) -> int:
        """Say in a line why the lesson ends here; the program's exit status."""
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone: `| head`
            sys.stderr.close()
            return 0
        if isinstance(error, KeyboardInterrupt):
            message, status = "Stopped.", 130
        elif isinstance(error, Todo):
            message, status = str(error.first()), 1
        else:
            message, status = str(error), 2
        fresh_line(sys.stderr)
        print(f"\nlesson {self.number:02}: {message}", file=sys.stderr)
        return status

    def _while_importing(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Python's last word on an error that nobody has caught, before `run`: Ctrl-C and a closed pipe end quietly."""
        if isinstance(error, (KeyboardInterrupt, BrokenPipeError)):
            sys.exit(self._told(error))
        self._hook_before(kind, error, trace)

    def _arm(self) -> AbstractContextManager[Any]:
        """The breakpoints and log points that are asked for; a wrong name or condition ends the program."""
        told = self.options
        if not (told.break_at or told.break_when or told.log):
            return nullcontext()
        from minillm.debug.stops import arm  # here: few ask for it

        try:
            return arm(told.break_at, told.break_when, told.log)
        except ValueError as error:
            sys.exit(self._told(error))

    def _mine(self) -> AbstractContextManager[None]:
        """With --mine: the learner's functions, for as long as the lesson runs."""
        if not self.options.mine:
            return nullcontext()
        from minillm.learn.swap import lesson_on_mine  # here: few ask for it

        return lesson_on_mine(f"{self.number:02}", self.say)

    def _quiz(self) -> AbstractContextManager[Any]:
        """With --quiz: questions while the lesson runs."""
        if not self.options.quiz:
            return nullcontext()
        from minillm.learn.quiz import quiz  # here: few ask for it

        return quiz(self.number, self.console)

    def llm(self, **settings: Any) -> Any:
        """The engine with these settings, on the model that the reader chose. Says what it makes."""
        from minillm import LLM  # here: it loads torch

        given = {name: value for name, value in settings.items() if value is not None}
        shown = ", ".join([repr(self.options.model), *(f"{name}={value!r}" for name, value in given.items())])
        self.console.print(Text(f"LLM({shown})", style="title"))
        return LLM(self.options.model, **{**self._defaults(), **given})

    def quiet_llm(self, **settings: Any) -> Any:
        """The same without saying so: for a comparison on the side."""
        from minillm import LLM  # here: it loads torch

        return LLM(self.options.model, **{**self._defaults(), **settings})

    def _defaults(self) -> dict[str, Any]:
        """Settings that keep off what later lessons turn on; and a part of the GPU, for lessons compare engines."""
        import torch  # here: it takes a second

        share = {"gpu_memory_utilization": GPU_SHARE} if torch.cuda.is_available() else {}
        later = [place for number, place in places().items() if number > self.number]
        return share | {name: value for place in later for name, value in place.off_before.items()}

    def part(self, title: str) -> None:
        """Begin the next part. With --step, wait for Enter first."""
        self._parts += 1
        if self._parts > 1:
            self.wait()
        self.console.print()
        heading = Text(f"{self._parts}. {title}", style="title")
        rule = Rule(heading, align="left", style="note")
        self.console.print(Drawing(lambda canvas: rule if heading.cell_len + 4 <= canvas.width else heading))
        self.console.print()

    def say(self, text: str) -> None:
        """A paragraph. Line breaks in the source are not the reader's; rich's markup works."""
        self.console.print(" ".join(text.split()), highlight=False)
        self.console.print()

    def quoted(self, text: object) -> str:
        """Text of a model's in quotes: it may hold anything."""
        return ascii(text) if self.options.plain else repr(text)

    def show(self, *drawings: RenderableType) -> None:
        """Drawings, set in a little, with a blank line after each."""
        for drawing in drawings:
            self.console.print(Padding(drawing, (0, 0, 1, 2)))

    def each(self, items: Iterable[Item], what: str) -> Iterator[Item]:
        """The items one by one. While each is worked on, a bar in the terminal says how far it is."""
        return each(items, what, shown=not self.options.plain)

    def bar(self, what: str, total: int) -> Bar:
        """The same for what is no loop of the lesson's own: ``with lesson.bar(...) as bar: ... bar.move()``."""
        return Bar(what, total, shown=not self.options.plain)

    def wait(self) -> None:
        """With --step: wait for Enter. Without a keyboard, go on."""
        if self.options.step and sys.stdin.isatty():
            typed = self.console.input("[note]Enter to go on, q and Enter to leave [/]")
            if typed.strip().lower() == "q":
                raise SystemExit(0)

    def end(self, *try_next: str) -> None:
        """What to try next, and where the lesson's chapter, exercises and quiz are."""
        from minillm.learn.home import python
        from minillm.learn.onward import onward  # here: the header does not wait for it

        self.part("Try next")
        for text in try_next:
            typed = " ".join(text.split()).replace("python -m minillm", f"{python()} -m minillm")
            self.console.print(Padding(Text.from_markup(f"- {typed}"), (0, 0, 0, 2)))
        self.console.print()
        if further := onward(self.number):
            self.console.print(Padding(further, (0, 0, 1, 2)), highlight=False)

    def _header(self) -> None:
        self.console.print(Rule(Text(f"Lesson {self.number:02}: {self.title}", style="title")))
        for name, text in (("Turns on", self.turns_on), ("Buys", self.buys), ("Stop at", f"--break {self.breaks}")):
            self.console.print(
                Text.assemble((f"{name:>9}  ", "note"), " ".join(text.split())).wrap(self.console, 1000)[0]
            )

    def _parse(self) -> argparse.Namespace:
        parser = argparse.ArgumentParser(
            description=f"Lesson {self.number:02}: {self.title}. Turns on {self.turns_on}."
        )
        add = parser.add_argument
        add("--model", default=self.model, help=f"a bundled model, a folder, or a Hub name (default: {self.model})")
        add("--prompt", help="a question of your own in place of the lesson's")
        add("--break", dest="break_at", metavar="PROBES", help=f"stop at these probes, as in --break '{self.breaks}'")
        add("--break-when", metavar="CONDITION", help="stop only if this is true, as in --break-when 'request.id == 2'")
        add("--log", metavar="PROBES", help="print a line at these probes and go on, as in --log 'scheduler.*'")
        add("--record", metavar="FILE", help="write what happens, to look at with: python -m minillm replay FILE")
        add("--timeline", metavar="FILE", help="write a time line to open in https://ui.perfetto.dev")
        add("--step", action="store_true", help="wait for Enter between the parts; q and Enter ends")
        add("--mine", action="store_true", help="run on your own functions, in my/exNN.py (python -m minillm learn)")
        add("--quiz", action="store_true", help="say at some probes what comes next, and see what does")
        add("--plain", action="store_true", help="no colours, no control codes, lines and marks in ASCII")
        return parser.parse_args()
