"""The learner's function beside the engine's own, and the first place where a run with it comes out differently."""

from textwrap import dedent

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from minillm.learn.home import my_file
from minillm.learn.mine import MineError, blame, read_mine
from minillm.learn.progress import Progress
from minillm.learn.source import definition
from minillm.learn.swap import mine, plain_kernels
from minillm.learn.tasks import Task
from minillm.learn.todo import Todo

MAX_STEPS = 300
SIDE_BY_SIDE = 100  # columns that two pieces of code beside each other need at least


def diff(task: Task, console: Console) -> None:
    """Show both; note that the learner has seen the engine's own, unless the exercise is done."""
    source = read_mine(task.number)
    yours = "\n\n".join(source.cut(node) for node in source.find(task.qualname)) or "# it is not there"
    progress = Progress()
    if not progress.done(task.id):  # after that, looking is no help
        progress.mark(task.id, "peeked")
        progress.save()
    console.print(Text(f"{task.id}  {task.title}", style="title"))
    console.print(_beside(yours, definition(task), task, console.width))
    console.print(Rule("the first difference in a run", align="left", style="note"))
    console.print(Text(first_difference(task)), soft_wrap=True)


def _beside(yours: str, engines: str, task: Task, width: int) -> RenderableType:
    codes = [Syntax(dedent(code), "python", theme="ansi_dark", word_wrap=True) for code in (yours, engines)]
    titles = ("yours", f"the engine's own, {task.file}")
    if width < SIDE_BY_SIDE:
        return Group(*(part for title, code in zip(titles, codes) for part in (Text(title, style="note"), code, "")))
    table = Table(box=None, expand=True, padding=(0, 1), header_style="note")
    for title in titles:
        table.add_column(title, ratio=1)
    table.add_row(*codes)
    return table


def first_difference(task: Task) -> str:
    """Run one small workload on the engine's own functions, then with the learner's, and compare fact by fact."""
    # Here: the two pieces of code are on the screen while torch loads.
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
        with mine([task]):
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
    except KeyboardInterrupt as error:
        return f"{at}stopped; {blame(error, my_file(task.number))}"
    except Exception as error:
        return f"{at}{blame(error, my_file(task.number))}"
    return (
        f"none: in {steps} steps of {len(requests)} requests, with chunks and preemptions, every plan, page, slot, "
        f"layer and token is the same. What these requests never ask for, the checkpoint may: "
        f"python -m minillm learn check {task.id}"
    )
