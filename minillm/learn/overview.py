"""What the learner sees between the exercises: the list with what is next, a started file, a hint."""

import importlib.util
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from minillm.learn.build import Build
from minillm.learn.home import my_file, shown
from minillm.learn.mine import MineError, read_mine
from minillm.learn.progress import Progress
from minillm.learn.registry import builds, lesson_tasks, tasks
from minillm.learn.stub import is_stub
from minillm.learn.tasks import Task


def overview(console: Console) -> None:
    """Every exercise with how it stands, the quiz of each lesson, and the command to go on with."""
    progress = Progress()
    scores = progress.quiz_scores()
    lesson = ""
    for task in tasks().values():
        if task.lesson != lesson:
            lesson = task.lesson
            right, asked = scores.get(task.number, (0, 0))
            quiz = f"  quiz: {right} of {asked} right" if asked else ""
            console.print(Text.assemble((f"{lesson[:2]}  {lesson[3:].replace('_', ' ')}", "title"), (quiz, "note")))
        mark, words, style = standing(task, progress, fancy=console.encoding.startswith("utf"))
        console.print(
            Text.assemble("    ", (mark, style), f" {task.id}  {task.title}", (f"  {words}" if words else "", "note"))
        )
    console.print(Text.assemble(("builds", "title"), ("  from a nearly empty file", "note")))
    for build in builds().values():
        mark, words, style = standing(build, progress, fancy=console.encoding.startswith("utf"))
        notes = "  ".join([f"after {build.after}", *([words] if words else [])])
        console.print(Text.assemble("    ", (mark, style), f" {build.id}  {build.title}", (f"  {notes}", "note")))
    done = sum(progress.done(id) for id in tasks())
    right, asked = (sum(score[i] for score in scores.values()) for i in (0, 1))
    quiz = f" Quiz: {right} of {asked} right." if asked else ""
    console.print(f"\n{done} of {len(tasks())} done.{quiz} Next: {_next(progress)}", soft_wrap=True)


def standing(task: Task, progress: Progress, fancy: bool) -> tuple[str, str, str]:
    """Mark, words and style."""
    notes = ["peeked"] if progress.peeked(task.id) else []
    if count := progress.hints(task.id):
        notes.append(f"{count} hint{'s' if count > 1 else ''}")
    if progress.done(task.id):
        return ("✓" if fancy else "x"), ", ".join(["done", *notes]), "good"
    started = my_file(task.number).exists()
    return ("○" if fancy else "o") if started else " ", ", ".join([*(["started"] if started else []), *notes]), "note"


def _next(progress: Progress) -> str:
    """What has been started comes first."""
    left = [task for task in tasks().values() if not progress.done(task.id)]
    for task in [*left, *(build for build in builds().values() if not progress.done(build.id))]:
        if my_file(task.number).exists():
            return f"write {task.id} in {shown(my_file(task.number))}, then: python -m minillm learn check {task.id}"
    return f"python -m minillm learn {f'start {left[0].number}' if left else 'race 01'}"


def started(number: str, path: Path, new: bool, console: Console) -> None:
    """What `start` did, and how to go on."""
    chosen = lesson_tasks(number)
    if new and isinstance(chosen[0], Build):
        names = " and ".join(chosen[0].names)
        console.print(f"{shown(path)} is there: what must hold, what is at hand, and an empty {names}.", soft_wrap=True)
        console.print("Read it once from top to bottom, then write. The engine runs on it:", soft_wrap=True)
        console.print(f"python -m minillm learn check {chosen[0].id}", soft_wrap=True)
    elif new:
        console.print(f"{shown(path)} is there: {len(chosen)} of the engine's functions for you to write.")
        for task in chosen:
            console.print(Text(f"  {task.id}  {task.title}: {task.qualname}"), soft_wrap=True)
        console.print(f"Check them at every save: python -m minillm learn watch {chosen[0].number}", soft_wrap=True)
        if importlib.util.find_spec("pytest") is None:
            console.print(
                "That needs pytest, which is not here yet: python3 scripts/start.py setup dev", soft_wrap=True
            )
    if new:
        return
    console.print(f"{shown(path)} is there already and stays as it is: {_written(chosen)}.", soft_wrap=True)
    console.print(f"To begin one again: python -m minillm learn reset {chosen[0].id}", soft_wrap=True)


def _written(chosen: list[Task]) -> str:
    """``2 of 5 written``; a file that is no Python says so."""
    try:
        text = read_mine(chosen[0].number).text
    except MineError as error:
        return str(error)
    there = sum(not is_stub(text, task) for task in chosen)
    return f"{there} of {len(chosen)} written"


def started_tasks() -> list[Task]:
    """The tasks of all lessons that have a file. ValueError if none has."""
    known = [*tasks().values(), *builds().values()]
    found = [task for task in known if my_file(task.number).exists()]
    if not found:
        raise ValueError("nothing has been started yet; begin with: python -m minillm learn start 01")
    return found


def hint(task: Task, console: Console) -> None:
    """The next hint, after those that were shown; from the last one on, all of them and where to read on."""
    progress = Progress()
    count = min(progress.hints(task.id) + 1, len(task.hints))
    what = f": {task.qualname}" if task.target else ""
    console.print(Text(f"{task.id}  {task.title}{what}", style="title"))
    for number, text in enumerate(task.hints[:count], 1):
        console.print(Text(f"hint {number} of {len(task.hints)}", style="note"))
        for line in text.splitlines():  # in a terminal they wrap below their beginning; a pipe gets them whole
            written = Text(line.strip())
            indent = 2 + len(line) - len(line.lstrip())
            if console.is_terminal:
                console.print(Padding(written, (0, 0, 0, indent), expand=False))
            else:
                console.print(Text(" " * indent) + written, soft_wrap=True)
    if count < len(task.hints):
        console.print(f"\nOne more: python -m minillm learn hint {task.id}", soft_wrap=True)
    elif isinstance(task, Build):
        console.print(f"\nThat is all of them. One possible answer: python -m minillm learn diff {task.id}")
    else:
        probes = ",".join(task.probes)
        console.print(
            f"\nThat is all of them. See it run: python -m minillm lesson {task.number} --break {probes}\n"
            f"Read: {task.chapter}. The engine's own: python -m minillm learn diff {task.id}",
            soft_wrap=True,
        )
    progress.task(task.id)["hints"] = count
    progress.save()
