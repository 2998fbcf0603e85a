"""``minillm learn``: write functions of the engine yourself, with tests, hints and the engine's own to compare with."""

from typing import TYPE_CHECKING, Annotated

import typer

from minillm.cli.options import Plain

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Write functions of the engine yourself.", invoke_without_command=True, rich_markup_mode=None)

Lesson = Annotated[str, typer.Argument(metavar="NN", help="The lesson's number, such as 03; or build1.")]
Exercise = Annotated[str, typer.Argument(metavar="ID", help="The exercise, such as 3.1 or build1.")]
Either = Annotated[str, typer.Argument(metavar="[ID]", help="An exercise (3.1, build1), or all of a lesson (03).")]
Patience = Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="A test that takes longer is stopped.")]
Pdb = Annotated[bool, typer.Option("--pdb", help="Open Python's debugger where a test fails.")]


@app.callback()
def show_progress(context: typer.Context) -> None:
    """Without a command: what there is, what is done, what is next."""
    if context.invoked_subcommand is None:
        from minillm.learn.overview import overview

        overview(_console())


@app.command()
def start(lesson: Lesson) -> None:
    """Write my/exNN.py, with the lesson's functions to fill in. A file that is there already stays."""
    from minillm.learn.overview import started
    from minillm.learn.stub import start

    started(lesson, *start(lesson), _console())


@app.command()
def check(exercise: Either = "", pdb: Pdb = False, patience: Patience = 10, plain: Plain = False) -> None:
    """Test your functions: one, a lesson's, or those of all lessons that you have started."""
    from minillm.learn.check import check
    from minillm.learn.checkpoints import Wishes
    from minillm.learn.overview import started_tasks
    from minillm.learn.registry import choose

    chosen = choose(exercise) if exercise else started_tasks()
    if not check(chosen, _console(plain), Wishes(patience=patience, debug=pdb)):
        raise typer.Exit(1)


@app.command()
def watch(lesson: Lesson, patience: Patience = 10, plain: Plain = False) -> None:
    """Test a lesson's functions at every save, one after the other, until q or Ctrl-C."""
    from minillm.learn.registry import choose
    from minillm.learn.watch import watch

    watch(choose(lesson), _console(plain), patience)


@app.command()
def hint(exercise: Exercise, plain: Plain = False) -> None:
    """A hint: first a question, then where to look, then the steps. One more each time."""
    from minillm.learn.overview import hint
    from minillm.learn.registry import task

    hint(task(exercise), _console(plain))


@app.command()
def diff(exercise: Exercise, plain: Plain = False) -> None:
    """Yours beside the engine's own, and where a run first differs. The list notes that you have looked."""
    from minillm.learn.diff import diff
    from minillm.learn.registry import builds, task

    if exercise in builds():
        from minillm.learn.build_views import show_answer

        show_answer(builds()[exercise], _console(plain))
    else:
        diff(task(exercise), _console(plain))


@app.command()
def race(lesson: Lesson, plain: Plain = False) -> None:
    """Yours against the engine's own: the same tokens, and how many a second?"""
    from minillm.learn.build_views import race_build
    from minillm.learn.race import race
    from minillm.learn.registry import builds, choose
    from minillm.learn.todo import Todo

    try:
        build = builds().get(lesson)
        same = race_build(build, _console(plain)) if build else race(choose(lesson), _console(plain))
    except Todo as todo:
        raise ValueError(str(todo.first())) from None
    if not same:
        raise typer.Exit(1)


@app.command()
def reset(exercise: Either) -> None:
    """Make an exercise (or all of a lesson) new again; what you wrote is kept beside it."""
    from minillm.learn.home import shown
    from minillm.learn.registry import choose
    from minillm.learn.stub import reset

    path, kept = reset(choose(exercise))
    _console().print(f"{shown(path)} has {exercise} new" + (f"; it was {shown(kept)}" if kept else ""))


def _console(plain: bool = False) -> "Console":
    from minillm.debug.views.theme import make_console

    return make_console(plain)
