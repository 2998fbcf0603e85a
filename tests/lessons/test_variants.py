"""A lesson that is changed as it proposes itself, or whose functions have no probes, tells what happened then."""

import ast
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent

import pytest

from minillm.learn.registry import lesson_tasks, lessons, tasks
from minillm.learn.source import definition, probe_lines
from minillm.learn.stub import exercise
from minillm.learn.tasks import Task

ROOT = Path(__file__).resolve().parents[2]
PLACES = {place.label: place for place in lessons().values()}
Play = Callable[..., str]

pytestmark = pytest.mark.ci  # as hardly anybody runs them


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Play:
    """``play("03", "PAGES = 48", "PAGES = 16")``: what the changed lesson prints, less the parts that only measure."""

    def run(number: str, old: str = "", new: str = "", *options: str) -> str:
        place = PLACES[number]
        text = place.script.read_text(encoding="utf-8")
        assert text.count(f"\n{old}") == 1 or not old, f"the lesson has no line {old!r} any more"
        path = tmp_path / place.script.name
        path.write_text(text.replace(f"\n{old}", f"\n{new}") if old else text, encoding="utf-8")
        monkeypatch.setattr(sys, "argv", [str(path), "--plain", *options])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the lesson has one of its own until it runs
        lesson = runpy.run_path(str(path), run_name="a_lesson")
        for name in place.only_measure:
            monkeypatch.setitem(lesson["main"].__globals__, name, lambda *_arguments: None)
        with lesson["lesson"]._mine():
            lesson["main"]()
        said = " ".join(capsys.readouterr().out.split())
        assert "Try next" in said and not re.search(r"waiting are ,|\[\]|: \.|  ,", said), said
        return said

    return run


def test_lesson_03_with_few_pages(play: Play) -> None:
    said = play("03", "PAGES = 48", "PAGES = 16")
    assert "in step 8, a last page is full. No page is free, so D and C must give all pages back and wait" in said
    assert "Request A takes page 15; Request B takes page 14" in said
    assert "Change PAGES = 16 to 48" in said
    said = play("03", "PAGES = 48", "PAGES = 15")
    assert "the prompts of all but D, which must wait. Each takes the pages" in said


def test_lesson_04_with_a_seat_for_each(play: Play) -> None:
    said = play("04", "SEATS = 4", "SEATS = 12")
    assert "1. Twelve requests, 12 seats" in said and "say what SEATS = 4 does" in said
    assert "With 12 seats the continuous engine never has to choose" in said


def test_lesson_05_with_a_short_last_request(play: Play) -> None:
    """As it proposes: C leaves in D's place. A little shorter still, and nobody leaves."""
    given = "WANTS = (44, 60, 52, 48)"
    text = PLACES["05"].script.read_text(encoding="utf-8")
    assert f"\n{given} " in text and "(60, 60, 60, 20) if WANTS" in text
    said = play("05", given, "WANTS = (60, 60, 60, 20)")
    assert "In step 56 all pages are taken, and A needs one more" in said and "C came last, so C must leave" in said
    assert "C comes in like a new request" in said and "who must leave with WANTS = (44, 60, 52, 48)." in said
    said = play("05", given, "WANTS = (60, 53, 52, 20)")
    assert "All have ended after 60 steps, and the pages never ran out" in said and "6. Nobody had to leave" in said
    assert "must leave: it is preempted" not in said and "comes in like" not in said and "came back" not in said


def test_lesson_08_with_larger_blocks(play: Play) -> None:
    """As it proposes: fewer rows, other corrections, the same last sum; C's context is 199 tokens."""
    rows, last = {}, {}
    for size in (16, 64):
        said = play("08", "BLOCK = 16", f"BLOCK = {size}")
        part = said.partition("running sum")[2].partition("That is query head")[0]
        rows[size] = re.findall(r"\d+\.\.\d+", part)
        last[size] = part.split()[-1]
        assert f"and the sum {last[size]}: what the last row says" in said
    assert rows[64] == ["0..63", "64..127", "128..191", "192..198"] and len(rows[16]) == 13
    assert last[16] == last[64]


def test_lesson_08_without_triton(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minillm.kernels.triton.load.find_spec", lambda _name: None)
    said = play("08")
    assert "the package triton is not installed; on Linux, python3 scripts/start.py setup dev brings it" in said
    assert "in place, plain torch" in said and "interpreted" not in said


def test_lesson_10_with_an_answer_that_ends_at_once(play: Play) -> None:
    """As it proposes: one row is thrown away, however early the answer ends."""
    for number, tokens in ((1, "1 token"), (6, "6 tokens")):
        said = play("10", "STOP_AT = 6", f"STOP_AT = {number}")
        assert "Thrown away: 1 row" in said and f"B has its {tokens} and no more" in said
        assert "requests still hold no page" in said and said.count("computed, thrown away") == 1


def test_lesson_09_with_six_seats(play: Play) -> None:
    said = play("09", "SEATS = 8", "SEATS = 6")
    assert "a few sizes are chosen (1, 2, 4, 6)" in said and "say which sizes SEATS = 8 records" in said
    assert "5 of 6, 4 of 4, 3 of 4, 2 of 2, 1 of 1" in said and "with three requests in a step of 4:" in said


def without_probes(task: Task) -> str:
    """The engine's own function, its probes taken out, as a learner may write it."""
    tree = ast.parse(dedent(definition(task)))
    left_out = [ast.dump(statement) for _, statement in probe_lines(tree)]
    for node in ast.walk(tree):
        for name, body in ast.iter_fields(node):
            if isinstance(body, list):
                setattr(node, name, [one for one in body if ast.dump(one) not in left_out])
    return indent(ast.unparse(tree), "    " if task.class_name else "")


@pytest.mark.parametrize(
    "number",
    [
        number
        for number in PLACES
        if any(t.number == number and probe_lines(ast.parse(dedent(definition(t)))) for t in tasks().values())
    ],
)
def test_functions_without_probes_only_show_less(
    number: str, play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINILLM_MY", str(tmp_path / "my"))
    chosen = lesson_tasks(number)
    (tmp_path / "my").mkdir()
    text = exercise(chosen, {task.id: without_probes(task) for task in chosen})
    (tmp_path / "my" / f"ex{number}.py").write_text(text, encoding="utf-8")
    said = play(number, "", "", "--mine")
    assert "has no probe" in said and "Still the engine's own" not in said
