"""``--mine``: a lesson runs on the learner's functions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from minillm.learn.home import my_file, shown
from minillm.learn.mine import MineError, blame, probes_left_out, read_mine, written
from minillm.learn.swap import mine
from minillm.learn.tasks import Task, lesson_tasks
from minillm.learn.todo import Todo


@contextmanager
def lesson_on_mine(number: str, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, the lesson's functions are the learner's, as far as they are written; a `Todo` if none is.

    What goes wrong in them is a MineError with file and line.
    """
    tasks = lesson_tasks(number)
    source, path = read_mine(tasks[0].number), my_file(tasks[0].number)
    yours = written(source, tasks)
    if not yours:
        raise Todo(tasks[0].id)
    left_out = list(probes_left_out(source, yours))
    say(f"The engine runs on your own {_names(yours)} from {shown(path)}, with plain torch kernels.")
    if others := [task for task in tasks if task not in yours]:
        say(f"Still the engine's own, because you have not written them yet: {_names(others)}.")
    for task, probe in left_out:
        say(f"Your {task.qualname} has no probe {probe!r}: what the lesson shows of it will be missing.")
    with mine(yours):
        try:
            yield
        except (Todo, KeyboardInterrupt):
            raise
        except Exception as error:
            text = blame(error, path)
            if not text.startswith(shown(path)):  # it went wrong somewhere else
                text = f"{text}\n{_elsewhere(number, bool(left_out))}"
            raise MineError(text) from error


def _names(tasks: list[Task]) -> str:
    return ", ".join(task.qualname for task in tasks)


def _elsewhere(number: str, probes_are_missing: bool) -> str:
    probes = "The lesson looks through probes that are missing (see above). " if probes_are_missing else ""
    return f"{probes}Are your functions right? python -m minillm learn check {number}"
