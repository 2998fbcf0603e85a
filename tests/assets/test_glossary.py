"""The glossary: its form, and that nothing is asked twice."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "minillm" / "assets" / "glossary"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
REQUIRED = {"term", "answer", "questions", "held_out"}
ALLOWED = REQUIRED | {"vllm", "sglang", "see"}


def entries() -> list[dict]:
    return [entry for name in FILES for entry in yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))]


def words(question: str) -> str:
    """Lower case, words only, no articles: what makes two questions the same."""
    return " ".join(word for word in re.findall(r"[a-z0-9]+", question.lower()) if word not in {"a", "an", "the"})


def repeated(texts: list[str]) -> list[str]:
    return [text for text, count in Counter(texts).items() if count > 1]


def test_there_is_enough() -> None:
    assert len(entries()) >= 150


@pytest.mark.parametrize("name", FILES)
def test_every_entry_has_the_keys_it_needs(name: str) -> None:
    for entry in yaml.safe_load((FOLDER / name).read_text(encoding="utf-8")):
        assert entry.keys() >= REQUIRED, entry
        assert entry.keys() <= ALLOWED, entry
        assert isinstance(entry["term"], str) and isinstance(entry["answer"], str), entry
        assert len(entry["questions"]) >= 2 and len(entry["held_out"]) >= 1, entry["term"]
        assert all(isinstance(question, str) for question in entry["questions"] + entry["held_out"]), entry["term"]


def test_terms_are_unique() -> None:
    assert repeated([entry["term"].lower() for entry in entries()]) == []


def test_answers_are_unique_plain_sentences() -> None:
    answers = [entry["answer"] for entry in entries()]
    assert repeated(answers) == []
    for answer in answers:
        assert answer.isascii() and "\n" not in answer.strip(), answer
        assert answer.rstrip().endswith("."), answer
        assert 40 <= len(answer) <= 300, answer


def test_no_question_stands_twice() -> None:
    questions = [words(question) for entry in entries() for question in entry["questions"] + entry["held_out"]]
    assert repeated(questions) == []


def test_no_held_out_question_is_trained() -> None:
    trained = {words(question) for entry in entries() for question in entry["questions"]}
    held_out = {words(question) for entry in entries() for question in entry["held_out"]}
    assert trained & held_out == set()


def test_every_see_names_another_term() -> None:
    terms = {entry["term"] for entry in entries()}
    for entry in entries():
        for target in entry.get("see", []):
            assert target in terms, f"{entry['term']} points to {target}, which is not in the glossary"
            assert target != entry["term"], f"{entry['term']} points to itself"
