"""What the learner sees of a build: a race against the engine's own, and one possible answer."""

from dataclasses import dataclass, field

from rich.console import Console
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from minillm.debug.views.compare import Row, before_after
from minillm.learn.build import Build
from minillm.learn.home import my_file
from minillm.learn.mine import MineError, blame, read_mine, written
from minillm.learn.progress import Progress
from minillm.learn.swap import mine
from minillm.learn.timing import Bar
from minillm.learn.todo import Todo

ROUNDS = 3  # the median counts; the two sides take turns


@dataclass
class Served:
    """What came of a workload: seconds, the tokens of each request, and what else is told of it: by name, the number,
    its unit, and which way is better."""

    seconds: float
    tokens: list[list[int]]
    facts: dict[str, tuple[float, str, str]] = field(default_factory=dict)


def race_build(build: Build, console: Console) -> bool:
    """Print both; whether the tokens are the same. `Todo` if it is not written yet."""
    if not written(read_mine(build.number), [build]):
        raise Todo(build.id)
    console.print(Text(f"Your {build.title.removeprefix('a ')} against the engine's own", style="title"))
    seam, served = build.seam, dict[str, list[Served]](engine=[], yours=[])
    with Bar("racing", total=2 * ROUNDS) as bar:
        for side in ("engine", "yours") * ROUNDS:
            with seam.ours() if side == "engine" else mine([build]):
                try:
                    served[side].append(seam.serve(build))
                except Todo:
                    raise
                except Exception as error:
                    text = f"your {build.id} is not right yet: python -m minillm learn check {build.id}"
                    raise MineError(f"{text}\n{blame(error, my_file(build.number))}") from error
            bar.move()
    if note := seam.about_the_race():
        console.print(Text(note, style="note"), soft_wrap=True)
    ours, yours = served["engine"], served["yours"]
    rows = [Row(name, fact[0], yours[-1].facts[name][0], *fact[1:]) for name, fact in ours[-1].facts.items()]
    speeds = [[sum(map(len, one.tokens)) / one.seconds for one in side] for side in (ours, yours)]
    rows += [Row("tokens/s", speeds[0], speeds[1], "", "higher")]
    times = [[one.seconds for one in side] for side in (ours, yours)]
    rows += [Row("time for all", times[0], times[1], "s", "lower")]
    console.print(before_after(rows, before="the engine's own", after="yours"))
    return _same(ours[-1].tokens, yours[-1].tokens, console)


def _same(engine: list[list[int]], yours: list[list[int]], console: Console) -> bool:
    wrong = [number for number, pair in enumerate(zip(engine, yours)) if pair[0] != pair[1]]
    if wrong:
        console.print(Text(f"Other tokens: the answers of requests {wrong} differ.", style="warn"))
    else:
        console.print(Text(f"The same {sum(map(len, engine))} tokens.", style="good"))
    return not wrong


def show_answer(build: Build, console: Console) -> None:
    """One possible answer; note that the learner has seen it, unless the build is done."""
    progress = Progress()
    if not progress.done(build.id):
        progress.mark(build.id, "peeked")
        progress.save()
    console.print(Text(f"{build.id}  {build.title}: one possible answer, of many", style="title"))
    console.print(Syntax(build.answer.rstrip(), "python", theme="ansi_dark", word_wrap=True))
    console.print(Rule("where to go on", align="left", style="note"))
    console.print(Text(" ".join(build.seam.READ_ON.split())))
