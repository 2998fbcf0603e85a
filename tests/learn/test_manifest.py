"""The lessons' tasks.yaml: every task is whole, and what it names exists."""

import importlib

import pytest

from minillm.debug.catalogue import catalogue
from minillm.learn.home import clone
from minillm.learn.registry import choose, lesson_tasks, task, tasks
from minillm.learn.tasks import Task

every_task = pytest.mark.parametrize("one", tasks().values(), ids=lambda one: one.id)


@every_task
def test_what_a_task_names_exists(one: Task) -> None:
    assert one.id.partition(".")[0] == str(int(one.number))
    home = importlib.import_module(one.module)
    assert one.name in vars(getattr(home, one.class_name) if one.class_name else home)
    assert f"class {one.test}:" in (clone() / one.checkpoint).read_text(encoding="utf-8")
    assert one.probes and set(one.probes) <= set(catalogue())
    assert (clone() / one.file).exists()


@every_task
def test_three_hints_from_a_question_to_steps(one: Task) -> None:
    assert len(one.hints) == 3
    assert "?" in one.hints[0]
    assert any(line.startswith(("1. ", "while", "for")) for line in one.hints[2].splitlines())
    assert max(len(line) for hint in one.hints for line in hint.splitlines()) <= 118


def test_ids_go_up_within_their_lessons() -> None:
    ids = [tuple(map(int, id.split("."))) for id in tasks()]
    assert ids == sorted(ids)
    for number in {one.number for one in tasks().values()}:
        assert [one.id for one in lesson_tasks(number)] == [
            f"{int(number)}.{i + 1}" for i in range(len(lesson_tasks(number)))
        ]


def test_choosing() -> None:
    assert choose("3.1") == [task("3.1")]
    assert choose("3") == choose("03") == lesson_tasks("03")
    with pytest.raises(ValueError, match=r"no exercise '3\.9'; there are\n  1\.1  RMSNorm"):
        choose("3.9")
    for unknown in ("77", "", "x"):
        with pytest.raises(ValueError, match=r"has no exercises; these have\n  01  first token"):
            choose(unknown)
