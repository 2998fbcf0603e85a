"""The first place where a run with the learner's function comes out differently; then it, beside the engine's own."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from minillm.learn.beside import beside
from minillm.learn.home import my_file
from minillm.learn.mine import MineError, blame, probes_left_out, read_mine
from minillm.learn.progress import Progress
from minillm.learn.source import definition
from minillm.learn.swap import mine, plain_kernels
from minillm.learn.tasks import Task
from minillm.learn.todo import Todo

MAX_STEPS = 300
PATIENCE = 20  # seconds of the processor's time for the learner's run


class TooLong(BaseException):
    """The learner's run has used up its time: most likely a loop that does not end."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """TooLong out of whatever runs then, once more each second if that goes on. Only where there are such signals."""
    if not hasattr(signal, "SIGVTALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(number: int, frame: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def diff(task: Task, console: Console) -> None:
    """Show both; note that the learner has seen the engine's own, unless the exercise is done."""
    source = read_mine(task.number)
    yours = "\n\n".join(source.cut(node) for node in source.find(task.qualname)) or "# it is not there"
    progress = Progress()
    if not progress.done(task.id):  # after that, looking is no help
        progress.mark(task.id, "peeked")
        progress.save()
    console.print(Text(f"{task.id}  {task.title}", style="title"))
    console.print(Rule("what differs in a run", align="left", style="note"))
    console.print(Text(first_difference(task)), soft_wrap=True)
    for _, probe in probes_left_out(source, [task]):
        console.print(Text(f"Yours never fires the probe {probe}."), soft_wrap=True)
    console.print(Rule("the code", align="left", style="note"))
    titles = ("yours", f"the engine's own, {task.file}")
    console.print(beside(titles, yours, definition(task), console.width))


def first_difference(task: Task) -> str:
    """Run one small workload on the engine's own functions, then with the learner's, and compare fact by fact."""
    # Here: what is compared is on the screen while torch loads.
    from minillm.learn.trace import Differs, Fact, Trace, compare
    from minillm.learn.workload import TIGHT, add_requests, make_engine

    facts: list[Fact] = []
    with plain_kernels():
        engine = make_engine(task.model, **{**dict(task.settings), **TIGHT})
        requests = add_requests(engine, max_tokens=24)
        steps = Trace(engine, facts.append).run(MAX_STEPS)
    seen = iter(facts)
    at = ""
    try:
        with mine([task]), at_most(PATIENCE):
            engine = make_engine(task.model, **{**dict(task.settings), **TIGHT})
            add_requests(engine, max_tokens=24)
            trace = Trace(engine, lambda fact: compare(fact, next(seen), engine.pool.page_size))
            try:
                trace.run(2 * steps)
            finally:
                at = f"step {trace.step}: "
    except Differs as found:
        return str(found)
    except Todo as todo:
        return f"{at}{todo.first()}"
    except MineError as error:
        return str(error)
    except TooLong as error:
        where, _, _ = blame(error, my_file(task.number)).rpartition(": ")
        return f"{at}yours was still running after {PATIENCE} s and was stopped, at {where or 'a line of the engine'}"
    except KeyboardInterrupt as error:
        return f"{at}stopped; {blame(error, my_file(task.number))}"
    except Exception as error:
        return f"{at}{blame(error, my_file(task.number))}"
    return (
        f"none: in {steps} steps of {len(requests)} requests, with chunks and preemptions, every plan, page, slot, "
        f"layer and token is the same. What these requests never ask for, the checkpoint may: "
        f"python -m minillm learn check {task.id}"
    )
