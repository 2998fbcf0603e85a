"""What `diff` and `race` run calls the functions of the exercise, also of one whose functions only some models have."""

from pathlib import Path

import pytest

from minillm.learn.diff import first_difference
from minillm.learn.registry import lesson_tasks, task
from minillm.learn.source import definition
from minillm.learn.stub import exercise

MISTAKES = {  # task: (what is replaced, by what); each changes what the experts' layer gives
    "17.1": ("if renormalise", "if False"),
    "17.2": ("flat.argsort(stable=True)", "flat.argsort(stable=True).argsort()"),
}


AHEAD = {  # the same, for functions that only an engine that is one step ahead calls, or calls twice
    "10.1": ("+= row.count", "+= 1", "step 2, request 0, position 1: tokens to compute"),
    "10.2": ("not self.needs_tokens", "False", "tokens to compute"),
    "10.3": ("request.in_flight -= 1", "pass", "tokens to compute"),
}


@pytest.mark.parametrize("id", [pytest.param(id, marks=[pytest.mark.ci] if i else []) for i, id in enumerate(AHEAD)])
def test_a_mistake_in_the_overlapped_loop_shows(my: Path, id: str) -> None:
    chosen = lesson_tasks("10")
    bodies = {one.id: definition(one) for one in chosen}
    my.mkdir()
    file = my / "ex10.py"
    file.write_text(exercise(chosen, bodies), encoding="utf-8")
    assert first_difference(task(id)).startswith("none: "), "what is right has no difference, whoever is first"
    bodies[id] = bodies[id].replace(*AHEAD[id][:2])
    file.write_text(exercise(chosen, bodies), encoding="utf-8")
    assert AHEAD[id][2] in first_difference(task(id))


@pytest.mark.parametrize("id", MISTAKES)
def test_a_mistake_shows_in_a_run_of_the_tasks_own_model(my: Path, id: str) -> None:
    chosen = lesson_tasks(id.partition(".")[0])
    bodies = {one.id: definition(one) for one in chosen}
    bodies[id] = bodies[id].replace(*MISTAKES[id])
    my.mkdir()
    (my / f"ex{chosen[0].number}.py").write_text(exercise(chosen, bodies), encoding="utf-8")
    assert task(id).model == "nano-moe"
    assert "layer 1: the residual stream before attention" in first_difference(task(id))


@pytest.mark.ci
@pytest.mark.parametrize("id", ["8.1", "9.1", "9.2", "9.3"])
def test_right_functions_show_no_difference_in_an_engine_that_calls_them(my: Path, id: str) -> None:
    chosen = lesson_tasks(id.partition(".")[0])
    my.mkdir()
    file = my / f"ex{chosen[0].number}.py"
    file.write_text(exercise(chosen, {one.id: definition(one) for one in chosen}), encoding="utf-8")
    assert task(id).settings
    assert first_difference(task(id)).startswith("none: ")
