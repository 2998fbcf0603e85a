"""`minillm lesson`: finds, lists and runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minillm.cli import lesson


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with two lessons in it."""
    monkeypatch.setattr("minillm.__file__", str(tmp_path / "minillm" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["minillm"])
    monkeypatch.setattr("sys.path", ["here"])
    folder = tmp_path / "lessons"
    folder.mkdir()
    (folder / "01_first.py").write_text('"""The first.\n\nMore."""\nimport sys\nprint(__name__, sys.argv[1:])\n')
    (folder / "12_no_words.py").write_text("import sys\nsys.exit(3)\n")
    (folder / "helper.py").write_text("")
    return folder


@pytest.mark.parametrize("number", ["1", "01"])
def test_runs_with_its_arguments(lessons: Path, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    lesson.run(number, ["--plain", "--help"])
    assert capsys.readouterr().out == "__main__ ['--plain', '--help']\n"


def test_its_exit_status_is_ours(lessons: Path) -> None:
    with pytest.raises(SystemExit, match="3"):
        lesson.run("12", [])


@pytest.mark.parametrize("number", ["", "--help"])
def test_without_a_number_they_are_listed(lessons: Path, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    lesson.run(number, [])
    assert capsys.readouterr().out.endswith("  01  The first.\n  12  no words\n")


def test_an_unknown_number_lists_them(lessons: Path) -> None:
    with pytest.raises(ValueError, match=r"no lesson '7'\n  01  The first\."):
        lesson.run("7", [])


def test_installed_without_a_clone(lessons: Path) -> None:
    for file in lessons.iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match="Get a clone"):
        lesson.run("01", [])


def test_arguments_go_through_the_command_line(minillm: Callable[..., Any], tmp_path: Path) -> None:
    """What looks like our own options is the lesson's, after the number."""
    done = minillm("lesson", "99", "--set", "x", "--help")
    assert done.returncode == 2
    assert "lesson" in done.stderr and "Traceback" not in done.stderr
