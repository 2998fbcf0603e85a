"""The progress file: what it keeps, and what it survives."""

import json
from pathlib import Path

import pytest

from minillm.learn.progress import Progress


def test_it_keeps_what_was_noted_and_when(my: Path) -> None:
    progress = Progress()
    progress.mark("3.1", "done")
    progress.mark("3.1", "peeked")
    when = progress.task("3.1")["done"]
    progress.mark("3.1", "done")  # the first time stays
    progress.save()
    again = Progress()
    assert again.done("3.1") and again.peeked("3.1") and not again.done("3.2") and again.task("3.1")["done"] == when
    again.forget("3.1", "done", "never noted")
    assert not again.done("3.1") and again.peeked("3.1")
    assert [path.name for path in my.iterdir()] == ["progress.json"]


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"x"', "\x00", '{"tasks": '])
def test_a_broken_file_is_set_aside(my: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    my.mkdir()
    (my / "progress.json").write_text(text)
    progress = Progress()
    assert not progress.done("3.1")
    progress.save()
    assert (my / "progress.broken.json").read_text() == text
    assert "could not be read" in capsys.readouterr().err
    Progress()
    assert not capsys.readouterr().err


def test_bytes_that_are_no_text(my: Path) -> None:
    my.mkdir()
    (my / "progress.json").write_bytes(b"\xff\xfe\x80")
    assert not Progress().done("1.1") and (my / "progress.broken.json").exists()


@pytest.mark.parametrize("tasks", [None, [], 3, {"3.1": None}, {"3.1": [1]}, {"3.1": {"hints": "many"}}])
def test_parts_of_another_kind_count_as_nothing(my: Path, tasks: object) -> None:
    my.mkdir()
    (my / "progress.json").write_text(json.dumps({"tasks": tasks, "quiz": {"right": 3}}))
    progress = Progress()
    assert not progress.done("3.1") and progress.hints("3.1") == 0
    progress.mark("3.1", "done")
    progress.save()
    assert json.loads((my / "progress.json").read_text())["quiz"] == {"right": 3}  # somebody else's stays
