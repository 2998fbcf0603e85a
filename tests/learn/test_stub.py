"""Stubs of every shape of function: what stays is what was there, what is raised is `Todo`, what is needed is there."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from minillm.learn.registry import lesson_tasks, task, tasks
from minillm.learn.source import definition, imports, stub
from minillm.learn.stub import exercise, is_stub, put_stub, reset, start
from minillm.learn.tasks import Task
from minillm.learn.todo import Todo

SHAPES = '''
from __future__ import annotations

import functools
import os.path as paths
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT, more = 3, [1]
Number = int | float


def helper(x): return x + 1


def plain(a: int, *rest: "Sequence[int]", key: Number = LIMIT) -> list[int]:
    """What it does.

    More of it.
    """
    # a hint that must not stay
    return [helper(a), *rest, key]


def one_line(x): return helper(x)


def no_docstring(
    x: int,  # with a comment
) -> int:

    # nor this
    y = paths.join("ä", "b")
    return x + len(y)


@functools.lru_cache(
    maxsize=None
)
def decorated(x): "ö"; return x * 2


async def later(x):
    """Async."""
    return x


def numbers(n):
    """A generator."""
    yield from range(n)


@dataclass
class Box:
    """A dataclass."""

    items: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """After."""
        self.items = list(self.items)

    def add(self, x: int) -> "Box":
        """Add one."""
        self.items.append(helper(x))
        return self

    @property
    def size(self) -> int:
        """How many."""
        return len(self.items)

    @size.setter
    def size(self, n: int) -> None:
        del self.items[n:]

    @staticmethod
    def of(*items: int) -> "Box":
        """From items."""
        return Box(list(items))

    @classmethod
    def empty(cls) -> "Box":
        """An empty one."""
        return cls()

    @functools.cached_property
    def total(self) -> int:
        return sum(self.items)


class Colour(Enum):
    RED = 1

    def shout(self) -> str:
        """Loud."""
        return self.name + "!"
'''

CALLS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda m: m.plain(1),
    "one_line": lambda m: m.one_line(1),
    "no_docstring": lambda m: m.no_docstring(1),
    "decorated": lambda m: m.decorated(1),
    "later": lambda m: m.later(1).send(None),
    "numbers": lambda m: list(m.numbers(2)),
    "Box.__post_init__": lambda m: m.Box([1]),
    "Box.add": lambda m: m.Box.add(object(), 1),
    "Box.of": lambda m: m.Box.of(1),
    "Box.empty": lambda m: m.Box.empty(),
    "Box.size": lambda m: m.Box.__dict__["size"].fget(object()),
    "Box.total": lambda m: m.Box.__dict__["total"].func(object()),
    "Colour.shout": lambda m: m.Colour.shout(object()),
}


def shape(qualname: str) -> Task:
    return Task("3.1", "03_paged_attention", "a title", f"shapes:{qualname}", "TestNothing", ("a", "b", "c"), ())


@pytest.fixture
def shapes(module: Callable[[str, str], None]) -> None:
    module("shapes", SHAPES)


def run(text: str) -> Any:
    from types import ModuleType

    made = ModuleType("stub")
    exec(compile(text, "stub.py", "exec"), vars(made))
    return made


@pytest.mark.parametrize("qualname", CALLS)
def test_every_shape_becomes_a_stub_that_runs_and_raises_todo(shapes: None, qualname: str) -> None:
    text = exercise([shape(qualname)])
    made = run(text)
    with pytest.raises(Todo, match=r"exercise 3\.1 is still to be written.*python -m minillm learn hint 3\.1"):
        CALLS[qualname](made)
    assert "must not stay" not in text and "nor this" not in text
    assert is_stub(text, shape(qualname))


@pytest.mark.parametrize("qualname", CALLS)
def test_every_shape_with_its_own_body_works_again(shapes: None, qualname: str) -> None:
    """What the body needs has been imported: the reference's own text runs in the exercise's place."""
    one = shape(qualname)
    text = exercise([one], {"3.1": definition(one)})
    assert not is_stub(text, one)
    made = run(text)
    for name in ("helper", "LIMIT", "paths"):
        if name in definition(one):
            assert hasattr(made, name), f"{name} is not imported"


def test_signature_decorators_and_docstring_stay(shapes: None) -> None:
    assert stub(shape("plain")) == dedent(
        '''\
        def plain(a: int, *rest: "Sequence[int]", key: Number = LIMIT) -> list[int]:
            """What it does.

            More of it.
            """
            raise Todo("3.1")'''
    )
    decorated = '@functools.lru_cache(\n    maxsize=None\n)\ndef decorated(x):\n    "ö"\n    raise Todo("3.1")'
    assert stub(shape("decorated")) == decorated
    assert stub(shape("Box.size")).count("raise Todo") == 2  # the setter is part of the property


def test_imports_are_those_of_the_body_and_the_annotations(shapes: None) -> None:
    assert imports(shape("plain")) == {
        "from __future__ import annotations",
        "from collections.abc import Sequence",  # under TYPE_CHECKING, and inside an annotation that is text
        "from shapes import helper",
        "from shapes import LIMIT",
        "from shapes import Number",
        "import functools",
        "import os.path as paths",
    }


def test_a_method_stands_in_a_class_that_inherits_the_engines(shapes: None) -> None:
    made = run(exercise([shape("Box.add")]))
    import shapes as live  # type: ignore[import-not-found]

    assert issubclass(made.Box, live.Box)
    assert "class Colour:" in exercise([shape("Colour.shout")])  # an enum with members has no heirs


def test_an_unknown_target_names_the_file(shapes: None) -> None:
    with pytest.raises(ValueError, match=r"exercise 3\.1: shapes\.py has no Box\.gone"):
        stub(shape("Box.gone"))


@pytest.mark.parametrize("number", dict.fromkeys(task.number for task in tasks().values()))
def test_every_lessons_file_runs_as_stubs_and_as_reference(number: str) -> None:
    chosen = lesson_tasks(number)
    for bodies in ({}, {one.id: definition(one) for one in chosen}):
        text = exercise(chosen, bodies)
        made = run(text)
        assert all(hasattr(made, task.class_name or task.name) for task in chosen)
        assert [is_stub(text, task) for task in chosen] == [not bodies] * len(chosen)
        assert max(map(len, text.splitlines())) <= 120


def test_start_keeps_what_is_there(my: Path) -> None:
    path, new = start("3")
    assert (path, new) == (my / "ex03.py", True)
    path.write_text("# mine", encoding="utf-8")
    assert start("03") == (path, False)
    assert path.read_text(encoding="utf-8") == "# mine"


def test_reset_makes_one_new_and_leaves_the_others(my: Path) -> None:
    chosen = lesson_tasks("03")
    path, _ = start("03")
    written = exercise(chosen, {task.id: definition(task) for task in chosen}) + "\nmine = 1\n"
    path.write_text(written, encoding="utf-8")
    _, kept = reset([task("3.2")])
    text = path.read_text(encoding="utf-8")
    assert [is_stub(text, task) for task in chosen] == [False, True, False, False, False]
    assert text.endswith("mine = 1\n") and kept and kept.read_text(encoding="utf-8") == written
    _, again = reset([task("3.4")])
    assert again != kept and is_stub(path.read_text(encoding="utf-8"), task("3.4"))


@pytest.mark.parametrize(
    "left", ["", "class PagePool:\n    x = 1\n", "class PagePool:\n    def apend(self): pass\n\n\ny = 2\n"]
)
@pytest.mark.parametrize("id", ["3.2", "3.4"])
def test_reset_brings_back_what_was_deleted_or_renamed(left: str, id: str) -> None:
    text = put_stub("from minillm.learn.todo import Todo\n" + left, task(id))
    assert is_stub(text, task(id))
    if id == "3.2":
        run(text)
