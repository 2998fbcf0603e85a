"""The quiz: what it asks in each lesson, that its answers are what the engine does, and how a learner's are taken."""

import builtins
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from minillm.debug.views.theme import make_console
from minillm.kvcache.pages import PagePool
from minillm.learn import moments
from minillm.learn.progress import Progress
from minillm.learn.questions import understood
from minillm.learn.quiz import Quiz, quiz
from minillm.learn.registry import Place, lesson, lessons
from minillm.probe import listen, probe

every_lesson = pytest.mark.parametrize("number", lessons())


class Noting(Quiz):
    """A quiz whose learner works the answers out, from the text; it keeps what was asked."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.number, make_console(plain=True))
        self.seen: list[str] = []
        self.works_out = place.module("learner").ANSWERS

    def _read(self, question, facts):
        text = question.text.format(**facts)
        assert question.hint.format(**facts) and text.endswith("?")
        self.seen.append(question.name)
        numbers = [int(n) for n in re.findall(r"\d+", text)]
        answer = understood(str(self.works_out[question.name](numbers, text)), question.kind)
        assert answer is not None, text
        return answer


def play(number: int, monkeypatch: pytest.MonkeyPatch) -> Noting:
    """A lesson's main() in this process, less the parts that only measure."""
    place = lesson(number)
    monkeypatch.setattr(sys, "argv", [str(place.script), "--plain"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the lesson has one of its own until it runs
    script = runpy.run_path(str(place.script), run_name="a_lesson")
    assert set(place.only_measure) <= set(script)
    for name in place.only_measure:
        monkeypatch.setitem(script["main"].__globals__, name, lambda *_arguments: None)
    one = Noting(place)
    with listen(one.probes(), one.hear) as one.listener:
        script["main"]()
    return one


@every_lesson
def test_every_question_is_asked_once_and_the_engine_agrees(number, monkeypatch, capsys) -> None:
    one = play(number, monkeypatch)
    said = capsys.readouterr().out
    assert sorted(one.seen) == sorted(question.name for question in lesson(number).questions)
    assert 3 <= len(one.seen) <= 6
    assert one.right == one.asked == len(one.seen), said
    assert not probe.on, "somebody still listens"
    assert said.count("Right: ") == one.asked and "Wrong, it is " not in said


def test_the_engine_is_asked_and_not_a_table(monkeypatch, capsys) -> None:
    """An engine that takes pages from the bottom of the list makes other answers right."""

    def allocate(self: PagePool, count: int) -> list[int]:
        taken, self.free_pages[:count] = self.free_pages[:count], []
        for page in taken:
            self.references[page] = 1
        return taken

    monkeypatch.setattr(PagePool, "allocate", allocate)
    one = play(3, monkeypatch)
    said = " ".join(capsys.readouterr().out.split())
    assert one.right == one.asked - 2
    assert "Wrong, it is 47. The last of the list" in said


@every_lesson
def test_the_list_is_whole(number: int) -> None:
    """And every function of the lesson's moments.py is used: by a question, or by another function."""
    place = lesson(number)
    names = [question.name for question in place.questions]
    assert len(names) == len(set(names)) and 3 <= len(names) <= 6
    assert set(place.module("learner").ANSWERS) == set(names)
    text = "".join((place.folder / name).read_text(encoding="utf-8") for name in ("moments.py", "questions.yaml"))
    functions = re.findall(r"^def (\w+)", text, re.MULTILINE)
    assert not [name for name in functions if len(re.findall(rf"\b{name}\b", text)) == 1], "nobody calls these"


def test_what_lessons_share_is_shared() -> None:
    shared = (Path(moments.__file__)).read_text(encoding="utf-8")
    texts = [
        "".join((place.folder / name).read_text(encoding="utf-8") for name in ("moments.py", "questions.yaml"))
        for place in lessons().values()
    ]
    for name in set(re.findall(r"^def (\w+)", shared, re.MULTILINE)) - {"any_engine"}:
        assert sum(name in text for text in texts) > 1, f"{name} belongs to one lesson"


@pytest.mark.parametrize(
    ("typed", "kind", "answer"),
    [
        ("12", "number", 12),
        ("6,152", "number", 6152),
        ("-1", "number", None),
        ("\u00b2", "number", None),
        ("9" * 5000, "number", None),
        ("Y", "yes or no", True),
        ("false", "yes or no", False),
        ("perhaps", "yes or no", None),
        ("b", "letter", "B"),
        ("7", "letter", None),
    ],
)
def test_what_is_typed(typed: str, kind: str, answer: object) -> None:
    assert understood(typed, kind) == answer


def run(answers: str, my: Path, *more: str) -> str:
    """Lesson 04 with these lines on its input."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINILLM_")}
    more_kept = {"OMP_NUM_THREADS": "1", "MINILLM_MY": str(my), "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(lesson(4).script), "--quiz", *more]
    done = subprocess.run(
        command, input=answers, capture_output=True, encoding="utf-8", env={**kept, **more_kept}, timeout=240
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "\x1b" not in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
    return done.stdout


@pytest.mark.ci
def test_a_lesson_with_answers_from_a_pipe(tmp_path: Path) -> None:
    """Wrong ones, a hint, what is no answer; then the truths that were shown; the progress file counts the last run."""
    my = tmp_path / "my"
    said = run("?\nyes\nmany\n99\nno\nA\n99\n", my, "--plain")
    assert said.isascii() and said.count("Wrong, it is ") == 5 and "Right: " not in said
    assert "When is a static batch put together?" in said and "The answer is a number" in said
    assert said.rstrip().endswith("Quiz: 0 of 5; in all lessons 0 of 5")
    truths = re.findall(r"^Wrong, it is ([\w,]+)\.", said, flags=re.MULTILINE)
    scores = json.loads((my / "progress.json").read_text())
    assert scores == {"quiz": {"04": {"right": 0, "asked": 5}}}
    scores = {"tasks": {"3.1": {"hints": 2}}, "quiz": {"03": {"right": 2, "asked": 6}, "04": {"right": 0, "asked": 5}}}
    (my / "progress.json").write_text(json.dumps(scores))
    said = run("\n".join(truths) + "\n", my)
    assert said.count("Right: ") == 5 and "Wrong, it is " not in said
    assert said.rstrip().endswith("Quiz: 5 of 5; in all lessons 7 of 11")
    scores["quiz"]["04"]["right"] = 5
    assert json.loads((my / "progress.json").read_text()) == scores
    said = run("\n4\n", my)
    assert said.rstrip().endswith("Quiz: 1 of 1 (1 skipped); in all lessons 7 of 11"), "its input ended too early"
    assert json.loads((my / "progress.json").read_text()) == scores


def test_a_skip_and_the_end_of_the_input(tmp_path: Path) -> None:
    said = run("\n4\n", tmp_path, "--plain")
    assert "The input has ended" in said and "Try next" in said and said.count("The input has ended") == 1
    assert said.rstrip().endswith("Quiz: 1 of 1 (1 skipped); in all lessons 1 of 1")


def test_a_lesson_that_is_stopped_keeps_no_score(my: Path) -> None:
    with pytest.raises(KeyboardInterrupt), quiz(4, make_console(plain=True)) as one:
        one.asked = 3
        raise KeyboardInterrupt
    assert not (my / "progress.json").exists()


@pytest.mark.parametrize("broken", [[], {"03": None}, {"03": {"right": "two"}}])
def test_a_score_of_another_kind_counts_as_nothing(broken, my: Path, capsys) -> None:
    progress = Progress()
    progress._data["quiz"] = broken
    progress.save()
    with quiz(4, make_console(plain=True)) as one:
        one.asked, one.right = 3, 2
    assert capsys.readouterr().out.rstrip().endswith("Quiz: 2 of 3; in all lessons 2 of 3")


def test_the_clock_stands_still_while_the_learner_thinks(monkeypatch, my: Path) -> None:
    import time

    real = time.perf_counter
    monkeypatch.setattr(builtins, "input", lambda: time.sleep(0.3) or "")
    with quiz(1, make_console(plain=True)) as one:
        began, really = time.perf_counter(), real()
        with one._clock_stopped():
            input()
        assert time.perf_counter() - began < 0.2 < real() - really
    assert time.perf_counter is real
