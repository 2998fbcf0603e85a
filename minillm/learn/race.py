"""The learner's functions of a lesson against the engine's own: the same tokens, and how fast?"""

from contextlib import nullcontext

from rich.console import Console
from rich.text import Text

from minillm.debug.views.compare import before_after
from minillm.learn.home import my_file
from minillm.learn.mine import MineError, blame, read_mine, written
from minillm.learn.swap import mine, plain_kernels
from minillm.learn.tasks import Task
from minillm.learn.timing import Bar, time_steps
from minillm.learn.todo import Todo

ROUNDS = 3  # the median counts; the two sides take turns


def race(tasks: list[Task], console: Console, max_tokens: int = 48) -> bool:
    """Print both; whether the tokens are the same. What is not written yet does not take part; `Todo` if nothing is."""
    todo = tasks[0]
    asked, tasks = tasks, written(read_mine(todo.number), tasks)
    if not tasks:
        raise Todo(todo.id)
    names = ", ".join(task.id for task in tasks)
    console.print(Text(f"Your {names} against the engine's own, both with plain torch kernels", style="title"))
    if others := ", ".join(task.id for task in asked if task not in tasks):
        console.print(Text(f"Not written yet, and the engine's own on both sides: {others}", style="note"))
    times: dict[str, list[float]] = {"engine": [], "yours": []}
    tokens: dict[str, list[list[int]]] = {}
    _serve(4, tasks[0])  # warm up
    with Bar("racing", total=2 * ROUNDS) as bar:
        for side in ("engine", "yours") * ROUNDS:
            with mine(tasks) if side == "yours" else nullcontext():
                try:
                    seconds, tokens[side] = _serve(max_tokens, tasks[0])
                except Todo:
                    raise
                except Exception as error:
                    raise MineError(_not_right(error, asked, tasks)) from error
            times[side].append(seconds)
            bar.move()
    speeds = [[sum(map(len, tokens[side])) / seconds for seconds in times[side]] for side in times]
    rows = [("tokens/s", *speeds, "", "higher"), ("time for all", *times.values(), "s", "lower")]
    console.print(before_after(rows, before="the engine's own", after="yours"))
    return _same(tokens["engine"], tokens["yours"], console)


def _not_right(error: Exception, asked: list[Task], tasks: list[Task]) -> str:
    """In the learner's words: whose function, how to find out more, and only then what Python said."""
    which = asked[0].id if len(asked) == 1 else asked[0].number
    names = ", ".join(task.id for task in tasks)
    one = f"your {names} is not right yet" if len(tasks) == 1 else f"one of your {names} is not right yet"
    return f"{one}: python -m minillm learn check {which}\n{blame(error, my_file(tasks[0].number))}"


def _serve(max_tokens: int, task: Task) -> tuple[float, list[list[int]]]:
    """Seconds for the workload, and the tokens of each request."""
    # Here: what is raced is on the screen while torch loads.
    from minillm.learn.workload import ROOMY, add_requests, make_engine

    with plain_kernels():
        engine = make_engine(task.model, **{**dict(task.settings), **ROOMY})
    requests = add_requests(engine, max_tokens)
    seconds, _ = time_steps(engine)
    return sum(seconds), [request.output_ids for request in requests]


def _same(engine: list[list[int]], yours: list[list[int]], console: Console) -> bool:
    for request, (a, b) in enumerate(zip(engine, yours)):
        if a != b:
            place = next((i for i, pair in enumerate(zip(a, b)) if pair[0] != pair[1]), min(len(a), len(b)))
            text = f"Other tokens: request {request}'s answer differs from its token {place} on."
            console.print(Text(text, style="warn"))
            return False
    console.print(Text(f"The same {sum(map(len, engine))} tokens.", style="good"))
    return True
