"""What a learner sees of a build, from the start to the race."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from minillm.learn.build_views import race_build, show_answer
from minillm.learn.home import my_file
from minillm.learn.mine import MineError, load_build
from minillm.learn.overview import hint, overview, started
from minillm.learn.progress import Progress
from minillm.learn.registry import builds, choose
from minillm.learn.stub import is_stub, reset, start
from minillm.learn.todo import Todo

BUILD = builds()["build1"]


@pytest.fixture(autouse=True)
def my(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINILLM_MY", str(tmp_path))
    return tmp_path


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_build_is_started_hinted_at_and_begun_anew(console: Console) -> None:
    started("build1", *start("build1"), console)
    overview(console)
    for _ in BUILD.hints:
        hint(BUILD, console)
    assert is_stub(my_file("build1").read_text(encoding="utf-8"), BUILD)
    my_file("build1").write_text("mine = 1\n", encoding="utf-8")
    with pytest.raises(MineError, match=r"build1.py has no Scheduler, which the engine calls by this name"):
        load_build(BUILD)
    path, kept = reset(choose("build1"))
    assert (
        is_stub(path.read_text(encoding="utf-8"), BUILD) and kept and kept.read_text(encoding="utf-8") == "mine = 1\n"
    )
    text = said(console)
    assert "an empty Scheduler" in text and "build1  a scheduler with its pool  after lessons 01 to 06  started" in text
    assert "hint 3 of 3" in text and "One possible answer: python -m minillm learn diff build1" in text


def test_who_looks_at_the_answer_has_peeked(console: Console) -> None:
    show_answer(BUILD, console)
    assert Progress().peeked("build1") and "class Pool:" in said(console)
    assert all(len(line) <= 80 for line in said(console).splitlines())


def test_what_is_not_written_is_not_raced(console: Console) -> None:
    start("build1")
    with pytest.raises(Todo, match="build1"):
        race_build(BUILD, console)


@pytest.mark.ci
def test_the_answer_races(console: Console) -> None:
    my_file("build1").write_text(BUILD.answer, encoding="utf-8")
    assert race_build(BUILD, console)
    assert "requests at once, most" in said(console) and "The same 560 tokens." in said(console)
