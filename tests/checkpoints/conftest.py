"""The checkpoints test the learner's functions where there are some, and the engine's own where there are none.

Each class tests one exercise (the lesson's tasks.yaml says which). Its tests run with that one function swapped in,
all others are the engine's. A function that is still to be written skips its tests, and the skip says how to get a
hint.
"""

from collections.abc import Iterator

import pytest
from judged import judged

from minillm.learn.build import Build
from minillm.learn.home import my_file
from minillm.learn.mine import MineError
from minillm.learn.registry import builds, tasks
from minillm.learn.stub import is_stub
from minillm.learn.tasks import Task
from minillm.learn.todo import Todo


def task_of(item: pytest.Item) -> Task | None:
    """The exercise that a test belongs to."""
    owner = getattr(item.cls, "__name__", "") if isinstance(item, pytest.Function) else ""
    known = [*tasks().values(), *builds().values()]
    return next((t for t in known if (t.test, f"test_{t.lesson}") == (owner, item.path.stem)), None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A stub as it was handed out skips before anything is made for its tests; its `Todo` would skip them too."""
    task = task_of(item)
    if task and my_file(task.number).exists():
        try:
            untouched = is_stub(my_file(task.number).read_text(encoding="utf-8"), task)
        except (SyntaxError, UnicodeDecodeError):
            return  # told below
        if untouched:
            pytest.skip(str(Todo(task.id)))


@pytest.fixture(autouse=True)
def _mine(request: pytest.FixtureRequest) -> Iterator[None]:
    """The learner's function in the engine's place, with plain torch kernels: compiled ones would not call it."""
    from minillm.learn.swap import mine, plain_kernels

    task = task_of(request.node)
    if task is None:
        yield
    elif not my_file(task.number).exists():
        # A build has no function of the engine's in its place: then its own answer is tested.
        with task.answered() if isinstance(task, Build) else plain_kernels():
            yield
    else:
        try:
            swap = mine([task])
            swap.__enter__()
        except MineError as error:
            pytest.fail(str(error), pytrace=False)
        try:
            yield
        finally:
            swap.__exit__(None, None, None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A row of ``s`` says little: what is still to be written has a hint."""
    reports = terminalreporter.stats.get("skipped", [])
    waiting = [report for report in reports if "is still to be written" in str(report.longrepr)]
    if waiting and "s" not in terminalreporter.reportchars:
        terminalreporter.write_line(
            f"{len(waiting)} tests were skipped: their exercises are still to be written; pytest -rs says which"
        )


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """What is still to be written is no mistake; what goes wrong in the learner's function is told as that."""
    task = task_of(pyfuncitem)
    try:
        # A build takes no one function's place: its seam looks at what it does.
        if task is None or isinstance(task, Build) or not my_file(task.number).exists():
            return (yield)
        with judged(task):
            return (yield)
    except Todo as todo:
        pytest.skip(str(todo))
