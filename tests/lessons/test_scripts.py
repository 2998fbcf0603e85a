"""A lesson reads like a page: imports at the top, a function a part, not too long; and its header does not wait."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from lessons.test_lessons import LESSONS, environment

LINES = 220  # "about 200"

# Ctrl-C at the moment when the lesson begins to load torch.
AT_TORCH = """
import runpy, sys

class Watching:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch", "GOMP_SPINCOUNT" in __import__("os").environ, flush=True)
            raise KeyboardInterrupt

sys.meta_path.insert(0, Watching())
runpy.run_path(sys.argv[0], run_name="__main__")
"""

each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


@each_lesson
def test_it_is_a_page_with_its_imports_at_the_top(lesson: Path) -> None:
    text = lesson.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    body = ast.parse(text).body
    imports = [i for i, one in enumerate(body) if isinstance(one, (ast.Import, ast.ImportFrom))]
    functions = [i for i, one in enumerate(body) if isinstance(one, (ast.FunctionDef, ast.ClassDef))]
    inside = [one for one in ast.walk(ast.parse(text)) if isinstance(one, (ast.Import, ast.ImportFrom))]
    assert len(inside) == len(imports), "an import inside a function"
    assert max(imports) < min(functions)


@each_lesson
def test_the_header_comes_before_torch_and_ctrl_c_ends_it_there(lesson: Path) -> None:
    """And minillm comes before torch: it sets what torch reads when it is loaded."""
    clean = {name: value for name, value in environment(80).items() if name != "GOMP_SPINCOUNT"}
    start = f"import sys; sys.argv = [{str(lesson)!r}, '--plain']\n{AT_TORCH}"
    done = subprocess.run([sys.executable, "-c", start], env=clean, capture_output=True, encoding="utf-8", timeout=60)
    *header, last = done.stdout.splitlines()
    assert f"Lesson {lesson.name[:2]}: " in header[0] and header[-1].strip().startswith("Stop at  --break ")
    assert last == "torch True"
    assert done.returncode == 130 and done.stderr.strip() == f"lesson {lesson.name[:2]}: Stopped."


@pytest.mark.parametrize("options", [["--breaks"], ["--break", "nothing.here"], ["--break-when", "step > 2"]])
def test_a_bad_option_is_told_at_once(options: list[str]) -> None:
    code = f"import sys; sys.argv = [{str(LESSONS[0])!r}, *{options}]\n{AT_TORCH}"
    done = subprocess.run([sys.executable, "-c", code], env=environment(80), capture_output=True, encoding="utf-8")
    assert done.returncode == 2 and "torch" not in done.stdout and "Traceback" not in done.stderr, done.stderr


def test_another_error_while_it_imports_is_told_by_python() -> None:
    code = f"import sys; sys.argv = [{str(LESSONS[0])!r}]\n{AT_TORCH}".replace(
        "KeyboardInterrupt", "ImportError('no torch')"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(80), capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and "Traceback" in done.stderr and "ImportError: no torch" in done.stderr


@pytest.mark.parametrize("activated", [True, False])
def test_a_lesson_ends_with_its_chapter_its_first_exercise_and_its_quiz(activated: bool, tmp_path: Path) -> None:
    """As commands that can be typed where the learner is, also by somebody who never activated the environment."""
    script, here = tmp_path / "end.py", Path(sys.executable).parent
    script.write_text(
        "from minillm.learn.lesson import Lesson\nlesson = Lesson(3, 'T', 'a', 'b', 'kv.free')\n"
        "lesson.run(lambda: lesson.end('Or: [bold]python -m minillm memory[/]'))\n"
    )
    variables = {"PATH": str(here) if activated else str(tmp_path), "PYTHONPATH": str(LESSONS[0].parents[1])}
    done = subprocess.run(
        [sys.executable, str(script), "--plain"], env=environment(200, **variables), capture_output=True,
        encoding="utf-8", cwd=LESSONS[0].parents[1], timeout=60,
    )  # fmt: skip
    python = "python" if activated else sys.executable
    if not activated and here.is_relative_to(LESSONS[0].parents[1]):
        python = str(Path(sys.executable).relative_to(LESSONS[0].parents[1]))
    assert [line.strip() for line in done.stdout.splitlines()[-7:] if line.strip()] == [
        f"- Or: {python} -m minillm memory",
        "Read  docs/lessons/03_paged_attention.md",
        f"Write  {python} -m minillm learn start 03",
        f"{python} -m minillm learn check 3.1",
        f"Answer  {python} lessons/03_paged_attention.py --quiz",
    ], done.stdout + done.stderr
