"""Where things are: the clone with its lessons and checkpoints, and the learner's own folder in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import minillm

NO_CLONE = """\
there are no exercises here: their tests are part of the repository, not of the installed package. Get a clone of
it, and in its folder run
    python3 scripts/start.py lesson 01"""


def clone() -> Path:
    """The repository: around the current folder, else around this package."""
    for folder in (Path.cwd(), *Path.cwd().parents, Path(minillm.__file__).resolve().parent.parent):
        if (folder / "lessons").is_dir() and (folder / "tests" / "checkpoints").is_dir():
            return folder
    raise FileNotFoundError(NO_CLONE)


def my_folder() -> Path:
    """The learner's folder: ``my/`` in the clone (git ignores it), or the one that MINILLM_MY names."""
    if named := os.environ.get("MINILLM_MY"):
        return Path(named).resolve()
    try:
        return clone() / "my"
    except FileNotFoundError:
        return Path.cwd() / "my"


def my_file(number: str) -> Path:
    """``my/ex03.py``: the learner's functions of lesson "03"; of "build1", ``my/build1.py``."""
    return my_folder() / (f"{number}.py" if number.startswith("build") else f"ex{number}.py")


def shown(path: Path) -> str:
    """A path as the learner would type it: short if it lies below the current folder."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def python() -> str:
    """This Python as the learner would type it: ``python`` where that is the one, as in an activated environment."""
    found = shutil.which("python")
    if found and os.path.abspath(found) == os.path.abspath(sys.executable):
        return "python"
    return subprocess.list2cmdline([shown(Path(os.path.abspath(sys.executable)))])
