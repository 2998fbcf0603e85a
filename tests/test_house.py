"""The rules of the house: which room may import which, what `import minillm` costs, which Python it is written in."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "minillm").rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_import_runs_up() -> None:
    # In a process of its own: import-linter changes sys.path and keeps the graph of what it has read.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_room_has_its_floor() -> None:
    """A new folder or module stands in pyproject.toml's layers, or nothing would hold it to its place."""
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("layers = [")[2].partition("]")[0]
    layered = set(re.findall(r"minillm\.(\w+)", contract))
    here = {path.name.removesuffix(".py") for path in (ROOT / "minillm").iterdir() if has_code(path)}
    assert here - layered <= {"__init__"}, "no floor for these in pyproject.toml"


def test_every_direct_dependency_is_pinned() -> None:
    """What scripts/start.py installs for lessons, tests and site is the same everywhere, down to the version."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project]")[2]
    wanted = set()
    for table in ("dependencies", "dev", "docs"):
        listed = re.search(rf"^{table} = \[(.*?)^\]", project, flags=re.MULTILINE | re.DOTALL)
        assert listed, table
        wanted |= {name.lower() for name in re.findall(r'^\s*"([\w-]+)', listed[1], flags=re.MULTILINE)}
    pins = re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert wanted == {name.lower() for name in pins}


def has_code(path: Path) -> bool:
    return path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))


def test_import_minillm_is_light() -> None:
    code = "import sys, minillm; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy = {"torch", "transformers", "triton", "tokenizers", "fastapi", "zmq", "rich", "typer"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_compiles_under_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 10))


def test_nothing_is_left_to_do() -> None:
    """No stubs: what stands in the package works. (`Todo`, the exercises' exception, is another word.)"""
    mark = re.compile(r"\b(TODO|FIXME|XXX)\b|\bNotImplementedError\b")
    found = [
        f"{name(path)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if mark.search(line)
    ]
    assert not found, "\n".join(found)
