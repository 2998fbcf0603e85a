"""Swapping: whoever imported a name gets the learner's, child processes too, and at the end all is as it was."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minillm.learn.mine import MineError, functions_of, load, probes_left_out, read_mine
from minillm.learn.registry import lesson_tasks, task
from minillm.learn.source import definition
from minillm.learn.stub import exercise, start
from minillm.learn.swap import VARIABLE, mine, plain_kernels, swapped
from minillm.learn.todo import Todo

HOME = """
def double(x):
    return 2 * x
TABLE = {"double": double}
class Base:
    factor = 3
    def times(self, x):
        return self.factor * x
    @property
    def name(self): return "base"
    @staticmethod
    def plus(x): return x + 1
    @classmethod
    def kind(cls): return cls.__name__
class Heir(Base):
    pass
class Other(Base):
    def times(self, x):
        return -super().times(x)
"""


@pytest.fixture
def home(module: Callable[[str, str], None]) -> Any:
    module("swap_home", HOME)
    module("swap_guest", "from swap_home import double as twice\nfrom swap_home import Base\n")
    module("swap_late", "from swap_home import double\n")
    return importlib.import_module("swap_home")


def test_every_module_that_imported_the_name_and_all_is_undone(home: Any) -> None:
    guest = importlib.import_module("swap_guest")
    original = home.double
    with pytest.raises(KeyError), swapped({"swap_home:double": lambda x: 20 * x}):
        assert home.double(1) == guest.twice(1) == 20
        late = importlib.import_module("swap_late")  # imported only now
        assert late.double(1) == 20
        raise KeyError
    assert home.double is guest.twice is late.double is original


def test_tables_of_the_engines_functions(monkeypatch: pytest.MonkeyPatch, home: Any) -> None:
    monkeypatch.setattr(home, "__name__", "minillm.swap_home")
    with swapped({"swap_home:double": lambda x: 20 * x}):
        assert home.TABLE["double"](1) == 20
    assert home.TABLE["double"](1) == 2


def test_methods_of_every_kind_on_living_instances_and_heirs(home: Any) -> None:
    base, heir, other = home.Base(), home.Heir(), home.Other()
    before = dict(vars(home.Base))
    mine_ = {
        "swap_home:Base.times": lambda self, x: 100 * x,
        "swap_home:Base.name": property(lambda self: "mine"),
        "swap_home:Base.plus": staticmethod(lambda x: x + 10),
        "swap_home:Base.kind": classmethod(lambda cls: "my " + cls.__name__),
        "swap_home:Base.helper": lambda self: 1,
    }
    with swapped(mine_):
        assert (base.times(1), heir.times(1), other.times(1)) == (100, 100, -100)
        assert (base.name, base.plus(1), heir.kind(), base.helper()) == ("mine", 11, "my Heir", 1)
    assert dict(vars(home.Base)) == before
    with swapped({"swap_home:Heir.times": lambda self, x: 7}):  # inherited until now
        assert (base.times(1), heir.times(1)) == (3, 7)
    assert heir.times(1) == 3 and "times" not in vars(home.Heir)


def write(number: str, text: str) -> Path:
    path, _ = start(number)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_learners_methods_may_help_each_other_and_call_super(my: Path) -> None:
    write(
        "03",
        """
import minillm.kvcache.pages
class PagePool(minillm.kvcache.pages.PagePool):
    def allocate(self, count):
        assert isinstance(self, PagePool), "the class's own name is the engine's class"
        self.note(count)
        return [self.free_pages.pop() for _ in range(count)]
    def note(self, count):
        super().__setattr__("noted", count)
""",
    )
    from minillm.kvcache.pages import PagePool

    with mine([task("3.1")]):
        pool = PagePool(4, 4)
        assert pool.allocate(2) == [0, 1] and pool.noted == 2  # type: ignore[attr-defined]
    assert not hasattr(PagePool, "note") and PagePool(4, 4).references == [0] * 4


def test_functions_that_are_not_chosen_are_the_engines(my: Path, module: Callable[[str, str], None]) -> None:
    """1.5 calls keep_top, which is 1.4, and a stub in the same file. Who has imported 1.5 by its name has it, too."""
    import torch

    from minillm.sampling import sampler

    module("parts", "from minillm.sampling.sampler import sample\n")
    parts = importlib.import_module("parts")
    one = task("1.5")
    write("01", exercise(lesson_tasks("01"), {"1.5": definition(one)}))
    logits = torch.tensor([[1.0, 2.0]])
    settings = sampler.SamplingBatch(*(torch.ones(1, dtype=torch.int64) for _ in range(5)), True)
    right = sampler.sample(logits, settings)
    with mine([one]):
        assert parts.sample is sampler.sample and parts.sample.__code__.co_filename == str(my / "ex01.py")
        assert torch.equal(parts.sample(logits, settings), right)
    with mine(lesson_tasks("01")), pytest.raises(Todo) as raised:
        parts.sample(logits, settings)
    assert raised.value.task == "1.4"


def test_a_wrapper_around_the_engines_own_is_no_endless_loop(my: Path) -> None:
    import numpy as np

    from minillm.worker import page_table

    write(
        "03",
        "from minillm.worker.page_table import slot_mapping as its\ndef slot_mapping(*given): return its(*given) + 0\n",
    )
    with mine([task("3.4")]):
        assert page_table.slot_mapping(np.array([[2]]), np.array([0]), np.array([1]), 4) == [9]


def test_child_processes_have_the_functions_too(my: Path) -> None:
    chosen = lesson_tasks("03")
    write("03", exercise(chosen, {task.id: definition(task) for task in chosen}))
    code = (
        "import minillm.worker.page_table as r, minillm.kvcache.pages as p; "
        "print(r.slot_mapping.__code__.co_filename, p.PagePool.free.__code__.co_filename)"
    )
    with mine(chosen[:4]):
        assert os.environ[VARIABLE] == "3.1,3.2,3.3,3.4"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=my)
    assert done.stdout.split() == [str(my / "ex03.py")] * 2, done.stderr
    assert VARIABLE not in os.environ


def test_auto_means_plain_kernels_meanwhile() -> None:
    import torch

    from minillm.worker import platform

    def name(asked: str) -> str:
        return platform.choose_kernels(asked, torch.device("cpu"), torch.float32).name

    before = name("auto")
    with plain_kernels():
        assert name("auto") == name("torch") == "torch"
    assert name("auto") == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\ndef f(:\n", r"ex03\.py, line 2, is no Python:\n.*def f\(:\n.*\^\nSyntaxError"),
        ("x = 1\nimport nothing_of_this_name\n", r"ex03\.py, line 2: ModuleNotFoundError"),
        ("def f():\n    g()\nf()\n", r"ex03\.py, line 2, in f: NameError"),
        ("", r"ex03\.py has no class PagePool, which holds exercise 3\.1"),
        ("PagePool = 3", r"ex03\.py has no class PagePool"),
        (
            "class PagePool:\n    def alocate(self): pass\n",
            r"has no PagePool\.allocate.*there is alocate.*learn reset 3\.1",
        ),
    ],
)
def test_a_broken_file_is_the_learners_and_says_where(my: Path, text: str, says: str) -> None:
    write("03", text)
    with pytest.raises(MineError, match=f"(?s){says}"), mine([task("3.1")]):
        pass


def test_no_file_yet(my: Path) -> None:
    with pytest.raises(MineError, match="begin with: python -m minillm learn start 03"):
        load("03")


def test_what_is_left_of_the_probes(my: Path) -> None:
    start("03")
    assert [name for _, name in probes_left_out(read_mine("03"), [task("3.5"), task("3.1")])] == ["kv.gather"]
    write("03", definition(task("3.5")))
    assert not list(probes_left_out(read_mine("03"), [task("3.5")]))


def test_a_function_that_is_there_is_found(my: Path) -> None:
    start("05")
    assert set(functions_of(load("05"), lesson_tasks("05"))) == {task.target for task in lesson_tasks("05")}
