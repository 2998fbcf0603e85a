"""The rules of the house: which room may import which, what `import minillm` costs, which Python it is written in."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import grimp  # comes with import-linter
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


def contract() -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[[tool.importlinter.contracts]]")[2]


def test_every_room_has_its_floor() -> None:
    """The floors are few, exhaustive (a new folder or module says where it lies) and without exceptions."""
    said = contract()
    layers = said.partition("layers = [")[2].partition("]")[0]
    here = {path.name.removesuffix(".py") for path in (ROOT / "minillm").iterdir() if has_code(path)} - {"__init__"}
    assert here == set(re.findall(r"\w+", layers)), "pyproject.toml's floors and the rooms that there are"
    assert "exhaustive = true" in said and "ignore_imports" not in said and said.count("[[tool") == 0
    assert len(re.findall(r'^    "', layers, flags=re.MULTILINE)) <= 18


def test_no_files_import_each_other_in_a_circle() -> None:
    """Not even through others; only names for types may be looked up the other way round."""
    graph = grimp.build_graph("minillm", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    while leaves := {module for module, found in imports.items() if not found & imports.keys()}:
        imports = {module: found for module, found in imports.items() if module not in leaves}
    assert not imports, f"in circles, or above one: {sorted(imports)}"


def test_functions_fit_a_screen() -> None:
    long = [
        f"{name(path)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in [*SOURCES, *sorted((ROOT / "lessons").glob("*.py"))]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= 60
    ]
    assert not long, "\n".join(long)


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
