"""``--mine``: a lesson runs on the learner's functions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from minillm.learn.home import my_file, shown
from minillm.learn.mine import MineError, blame, probes_left_out, read_mine
from minillm.learn.swap import mine
from minillm.learn.tasks import lesson_tasks
from minillm.learn.todo import Todo


@contextmanager
def lesson_on_mine(number: str, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, the lesson's functions are the learner's. What goes wrong in them is a MineError with file and line."""
    tasks = lesson_tasks(number)
    path = my_file(tasks[0].number)
    left_out = list(probes_left_out(read_mine(tasks[0].number), tasks))
    names = ", ".join(task.qualname for task in tasks)
    say(f"The engine runs on your own {names} from {shown(path)}, with plain torch kernels.")
    for task, probe in left_out:
        say(f"Your {task.qualname} has no probe {probe!r}: what the lesson shows of it will be missing.")
    with mine(tasks):
        try:
            yield
        except (Todo, KeyboardInterrupt):
            raise
        except Exception as error:
            text = blame(error, path)
            if not text.startswith(shown(path)):  # it went wrong somewhere else
                if not left_out:
                    raise
                text = f"the lesson looks through probes that are missing in {shown(path)} (see above); then: {text}"
            raise MineError(text) from error
