"""``minillm lesson NN``: run a lesson with this Python."""

import ast
import runpy
import sys
from pathlib import Path

import minillm

NOT_HERE = """\
there are no lessons here: they are part of the repository, not of the installed package. Get a clone of it, and
in its folder run
    python3 scripts/start.py lesson 01"""


def run(number: str, arguments: list[str]) -> None:
    """Run the lesson in this process, so that an attached debugger stays attached; without a number, list all."""
    lessons = find_lessons()
    if not number or number in ("-h", "--help"):
        print("usage: minillm lesson NN [the lesson's own options]\n" + listing(lessons))
        return
    wanted = number.zfill(2)
    if wanted not in lessons:
        raise ValueError(f"there is no lesson {number!r}\n{listing(lessons)}")
    path = lessons[wanted]
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


def find_lessons() -> dict[str, Path]:
    """Number -> file, from the clone that this package lies in, else from the current folder."""
    for home in (Path(minillm.__file__).resolve().parent.parent, Path.cwd()):
        files = sorted((home / "lessons").glob("[0-9][0-9]_*.py"))
        if files:
            return {file.name[:2]: file for file in files}
    raise FileNotFoundError(NOT_HERE)


def listing(lessons: dict[str, Path]) -> str:
    """A line for each: its number, and the first line of its text."""
    return "\n".join(f"  {number}  {_title(path)}" for number, path in lessons.items())


def _title(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem[3:].replace("_", " ")
    return text.splitlines()[0]
