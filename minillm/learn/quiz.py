"""Predict, then run: questions in the middle of a lesson, each checked against what the engine then does."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from minillm.debug.open_line import fresh_line
from minillm.learn.moments import Facts
from minillm.learn.progress import Progress
from minillm.learn.questions import KEYS, WHAT, Question, shown, understood
from minillm.learn.registry import lesson as place_of
from minillm.probe import Event, Listener, listen
from minillm.scheduler.scheduler import Scheduler

real_time: Callable[[], float] = time.perf_counter


class Quiz:
    """Listens to a lesson's run. One question at a time is open, from its asking to its check.

    asked: questions that got an answer and were checked. Each question is about one engine of the lesson: the first
    that fits, however many others run beside it.
    """

    def __init__(self, lesson: int, console: Console) -> None:
        self.lesson, self.console = lesson, console
        self.right = self.asked = self.skipped = 0
        self._left = list(place_of(lesson).questions)
        self._engines: dict[Any, Scheduler] = {}  # which engine a question is about (its `fits`) -> the one it is
        self._scheduler: Scheduler | None = None  # whose step it is
        self._open: tuple[Question, Facts, Any] | None = None
        self.listener: Listener | None = None
        self._over = False  # the input has ended
        self._thought = 0.0  # seconds

    def probes(self) -> list[str]:
        """What it must hear of: questions, checks, and whose step it is."""
        mine = {name for question in self._left for name in (question.ask_at, question.check_at)}
        return sorted(mine | {"request.add", "scheduler.begin"})

    def hear(self, event: Event) -> None:
        """A probe came by: first the open question is checked, then another may be asked."""
        self._scheduler = event.values.get("scheduler", self._scheduler)
        if self._scheduler is None:
            return
        with self._clock_stopped():
            self._check(event, self._scheduler)
            for question in self._left.copy():
                if self._open is None and question in self._left and question.ask_at == event.name:
                    self._ask(question, event, self._scheduler)
        if self.listener and not self._left and self._open is None:
            self.listener.close()  # what the lesson measures later is not slowed down

    def _ask(self, question: Question, event: Event, scheduler: Scheduler) -> None:
        if question.fits not in self._engines and question.fits(scheduler.config):
            self._engines[question.fits] = scheduler
        if self._engines.get(question.fits) is not scheduler:
            return
        facts = question.moment(event, scheduler)
        if facts is None:
            return
        self._left.remove(question)
        self._say(("? ", "warn"), (question.text.format(**facts), "title"))
        answer = self._read(question, facts)
        if answer is not None:
            self._open = question, facts, answer
        else:
            self.skipped += not self._over

    def _read(self, question: Question, facts: Facts) -> int | bool | str | None:
        """The learner's answer; None if there is none. At the end of the input nothing more is asked."""
        while True:
            try:
                self.console.print(Text(f"  {WHAT[question.kind]}> "), end="", soft_wrap=True)
                typed = input().strip()
            except (EOFError, UnicodeDecodeError, RuntimeError):  # the last: there is no stdin
                self.console.print()
                self._say(("The input has ended: no more questions, the lesson goes on.", "note"))
                self._left.clear()
                self._over = True
                return None
            if not (sys.stdin and sys.stdin.isatty()):
                self.console.print(Text(typed))
            if not typed:
                return None
            if typed.startswith("?"):
                self._say((question.hint.format(**facts), "note"))
                continue
            answer = understood(typed, question.kind)
            if answer is not None:
                return answer
            self._say((f"The answer is {WHAT[question.kind]}. {KEYS}", "note"))

    def _check(self, event: Event, scheduler: Scheduler) -> None:
        if self._open is None:
            return
        question, facts, answer = self._open
        if event.name != question.check_at or scheduler is not self._engines[question.fits]:
            return
        truth = question.answer(facts, event, scheduler)
        if truth is None:
            return
        self._open = None
        self.asked += 1
        self.right += answer == truth
        verdict = ("Right: ", "good") if answer == truth else ("Wrong, it is ", "warn")
        self._say(verdict, (f"{shown(truth)}. ", "title"), question.why.format(**facts, answer=shown(truth)))
        self.console.print()

    def end(self) -> None:
        """Note the score in the progress file, where a lesson's last run counts, and say it.

        A run whose input ended before the questions did replaces no score of more questions.
        """
        progress = Progress()
        scores = progress.section("quiz")
        before = progress.quiz_scores().get(f"{self.lesson:02}", (0, 0))[1]
        if self.asked and not (self._over and self.asked < before):
            scores[f"{self.lesson:02}"] = {"right": self.right, "asked": self.asked}
            progress.save()
        known = progress.quiz_scores().values()
        right, asked = sum(score[0] for score in known), sum(score[1] for score in known)
        skipped = f" ({self.skipped} skipped)" if self.skipped else ""
        self._say(f"Quiz: {self.right} of {self.asked}{skipped}; in all lessons {right} of {asked}")

    def _say(self, *parts: str | tuple[str, str]) -> None:
        fresh_line(sys.stdout)
        self.console.print(Text.assemble(*parts))

    @contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        """What a lesson measures leaves out the time that the learner thinks: see `quiz`."""
        began = real_time()
        try:
            yield
        finally:
            self._thought += real_time() - began

    def clock(self) -> float:
        return real_time() - self._thought


@contextmanager
def quiz(lesson: int, console: Console) -> Iterator[Quiz]:
    """Ask while the lesson runs; its score when it has come to its end. Thinking stops the lesson's clock."""
    one = Quiz(lesson, console)
    console.print(Text(f"Quiz: before the engine goes on, say what it will do. {KEYS}", style="note"))
    time.perf_counter = one.clock
    try:
        with listen(one.probes(), one.hear) as one.listener:
            yield one
    finally:
        time.perf_counter = real_time
    one.end()
