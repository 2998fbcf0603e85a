"""The quiz: what it asks in each lesson, that its answers are what the engine does, and how a learner's are taken."""

import builtins
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minillm.debug.views.theme import make_console
from minillm.kvcache.pages import PagePool
from minillm.learn.progress import Progress
from minillm.learn.questions import ENGINES, questions
from minillm.learn.quiz import Quiz, quiz
from minillm.learn.typed import understood
from minillm.probe import listen, probe

ROOT = Path(__file__).resolve().parents[2]
LESSONS = {int(path.name[:2]): path for path in sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))}
SLOW = (
    "cost_with_and_without",
    "before_and_after",
    "budgets",
    "page_sizes",
    "cost_of_forgetting",
    "compare_grouping",
    "what_it_buys",
    "in_a_batch",
    "price",
)  # their parts only measure


def growth(text: str) -> int:
    lengths = [int(n) for n in re.findall(r"[A-Z] (\d+)", text)]
    return sum(n % 16 == 0 for n in lengths)


def chosen(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", first(r"token by token: (.*)\. How", text))]


def likeliest(text: str) -> int:
    shares = {int(expert): int(share) for expert, share in re.findall(r"(\d+) (\d+)%", text)}
    return max(shares, key=lambda expert: shares[expert])


def first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found, text
    return found[1]


def most(text: str) -> str:
    found = [(int(n), letter) for letter, n in re.findall(r"\b([A-Z]) (\d+)", text)]
    return max(found, key=lambda pair: (pair[0], -ord(pair[1])))[1]


def decimals(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def kept_score(said: float, rival: float, penalty: float) -> bool:
    return said / penalty > rival


# What a learner would work out from the question's text alone: (its numbers, its text) -> the answer.
LEARNER: dict[tuple[int, str], Callable[[list[int], str], object]] = {
    (1, "rows of logits"): lambda n, text: 1,
    (1, "scores"): lambda n, text: 4096,
    (1, "greedy"): lambda n, text: "yes",
    (1, "candidates"): lambda n, text: first(r"top_k=(\d+)", text),
    (1, "next step"): lambda n, text: n[1] + 1,
    (2, "prefill"): lambda n, text: n[0],
    (2, "decode"): lambda n, text: 1,
    (2, "context"): lambda n, text: n[0] + 1,
    (2, "new page"): lambda n, text: "no",
    (2, "four pages"): lambda n, text: n[0],
    (2, "slot"): lambda n, text: n[0] * n[1] + n[2],
    (3, "first page"): lambda n, text: n[-1],
    (3, "pages of a prompt"): lambda n, text: (n[0] + n[1] - 1) // n[1],
    (3, "slot"): lambda n, text: n[n[-1] // n[-2]] * n[-2] + n[-1] % n[-2],
    (3, "growth"): lambda n, text: growth(text),
    (3, "longest context"): lambda n, text: max(n) + 1,
    (3, "next page out"): lambda n, text: n[-1],
    (4, "static admits"): lambda n, text: "no",
    (4, "continuous admits"): lambda n, text: "yes",
    (4, "who comes in"): lambda n, text: first(r"and ([A-Z])", text),
    (4, "requests of a step"): lambda n, text: min(4, len(re.findall(r"\b[A-Z]\b", text))),
    (4, "tokens of a step"): lambda n, text: n[0] + n[1],
    (5, "chunk"): lambda n, text: n[1] - n[2],
    (5, "token of a chunk"): lambda n, text: "yes" if n[1] == n[2] - 1 else "no",
    (5, "steps to the first token"): lambda n, text: -(-n[0] // (n[2] - n[1])),
    (5, "who leaves"): lambda n, text: first(r"([A-Z])\. Who", text),
    (5, "to recompute"): lambda n, text: n[0] + n[1],
    (6, "freed"): lambda n, text: 1 if n[2] % n[1] else 0,
    (6, "tokens found"): lambda n, text: n[1] // n[2] * n[2],
    (6, "prompt that is known"): lambda n, text: n[0] - (n[0] - 1) // n[1] * n[1],
    (6, "page that goes"): lambda n, text: first(r"(\d+)\]", text),
    (6, "who finds most"): lambda n, text: most(text),
    (7, "penalty"): lambda n, text: "yes" if kept_score(*decimals(text)) else "no",
    (7, "twins"): lambda n, text: "yes",
    (7, "min-p"): lambda n, text: sum(share >= decimals(text)[0] * decimals(text)[1] for share in decimals(text)[1:]),
    (7, "several answers"): lambda n, text: n[0] + (n[1] - 1) * (n[0] - (n[0] - 1) // n[2] * n[2]),
    (7, "end of a grammar"): lambda n, text: 1,
    (8, "query heads of a program"): lambda n, text: n[0] // n[1],
    (8, "last page of the walk"): lambda n, text: n[2:][(n[0] - 1) // n[1]],
    (8, "splits"): lambda n, text: -(-n[0] // (n[1] * n[2])),
    (8, "sum of a context"): lambda n, text: "no",
    (10, "tokens that a plan names"): lambda n, text: 0,
    (10, "position without a token"): lambda n, text: n[0],
    (10, "last one in flight"): lambda n, text: "no" if n[1] + 1 == n[0] else "yes",
    (10, "row of one that has ended"): lambda n, text: "yes",
    (10, "grammar and overlap"): lambda n, text: "no",
    (11, "ranges of a layer"): lambda n, text: n[0],
    (11, "reads of a weight"): lambda n, text: 1,
    (11, "matrix kernels"): lambda n, text: 4 * n[0] + 1,
    (11, "nobody works"): lambda n, text: n[2] - n[1] + n[4] - n[3],
    (11, "operations with a weight"): lambda n, text: 2 * n[0],
    (9, "size of the step"): lambda n, text: min(size for size in n[1:] if size >= n[0]),
    (9, "prompt in the step"): lambda n, text: "no",
    (9, "rows of padding"): lambda n, text: min(size for size in n[1:] if size >= n[0]) - n[0],
    (9, "slots that are written"): lambda n, text: n[1],
    (9, "length of a row"): lambda n, text: n[0] + 1,
    (17, "rows of a layer"): lambda n, text: n[1] * n[2],
    (17, "likeliest expert"): lambda n, text: likeliest(text),
    (17, "sum of the weights"): lambda n, text: 100,
    (17, "rows of one expert"): lambda n, text: chosen(text).count(n[-1]),
    (17, "first of the groups"): lambda n, text: min(n[1:]),
    (19, "size of the embedding"): lambda n, text: 1,
    (19, "queries that stay"): lambda n, text: 1,
    (19, "length of keys"): lambda n, text: "no",
    (19, "capped logits"): lambda n, text: "no",
}


class Noting(Quiz):
    """A quiz whose learner works the answers out, from the text; it keeps what was asked."""

    def __init__(self, lesson: int) -> None:
        super().__init__(lesson, make_console(plain=True))
        self.seen: list[str] = []

    def _read(self, question, facts):
        text = question.text.format(**facts)
        assert question.hint.format(**facts) and text.endswith("?")
        self.seen.append(question.name)
        numbers = [int(n) for n in re.findall(r"\d+", text)]
        answer = understood(str(LEARNER[self.lesson, question.name](numbers, text)), question.kind)
        assert answer is not None, text
        return answer


def play(number: int, monkeypatch: pytest.MonkeyPatch) -> Noting:
    """A lesson's main() in this process, less the parts that only measure."""
    monkeypatch.setattr(sys, "argv", [str(LESSONS[number]), "--plain"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the lesson has one of its own until it runs
    lesson = runpy.run_path(str(LESSONS[number]), run_name="a_lesson")
    scope = lesson["main"].__globals__
    for name in SLOW:
        if name in scope:
            monkeypatch.setitem(scope, name, lambda *_arguments: None)
    one = Noting(number)
    with listen(one.probes(), one.hear) as one.listener:
        lesson["main"]()
    return one


@pytest.mark.parametrize("number", LESSONS)
def test_every_question_is_asked_once_and_the_engine_agrees(number, monkeypatch, capsys) -> None:
    one = play(number, monkeypatch)
    said = capsys.readouterr().out
    assert sorted(one.seen) == sorted(q.name for q in questions() if q.lesson == number)
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


def test_the_list_is_whole() -> None:
    for number in LESSONS:
        names = [question.name for question in questions() if question.lesson == number]
        assert len(names) == len(set(names)) and 3 <= len(names) <= 6
    assert {question.engine for question in questions()} == set(ENGINES)


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
    command = [sys.executable, str(LESSONS[4]), "--quiz", *more]
    done = subprocess.run(
        command, input=answers, capture_output=True, encoding="utf-8", env={**kept, **more_kept}, timeout=240
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "\x1b" not in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
    return done.stdout


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
