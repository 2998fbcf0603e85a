"""The reading path on the architecture page is the way that the imports go: no gap, and nothing twice."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## The reading path of a prompt\n")[2].partition("\n## ")[0]
# A file -> what to read in it.
PATH = dict(re.findall(r"^- `(minillm/\S+\.py)`: (.*?)\. ", SECTION, flags=re.MULTILINE))
FILES = list(PATH)


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def imported(file: str) -> set[str]:
    """The modules that a file imports, anywhere in it, by their whole names.

    A file that imports by a name that it works out (`import_module`) imports those modules whose whole name stands in
    it as a string, and those whose last part does, if the part before stands in what it gives to `import_module`.
    """
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "import_module":
            given, words = strings(node.args[0]), strings(tree)
            found |= {word for word in words if word.startswith("minillm.")}
            found |= {start + word for start in given if start.startswith("minillm.") for word in words}
    return found


def strings(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_it_is_a_path() -> None:
    rows = re.findall(r"^- `(minillm/\S+\.py)`", SECTION, flags=re.MULTILINE)
    assert len(rows) == len(set(rows)) == len(FILES), "each file once"
    assert FILES[0] == "minillm/llm.py" and FILES[-1] == "minillm/text/detokenizer.py" and len(FILES) >= 30


@pytest.mark.parametrize("index", range(len(FILES)), ids=FILES)
def test_each_is_imported_by_one_above_it(index: int) -> None:
    file = FILES[index]
    assert (ROOT / file).is_file()
    above = FILES[:index]
    assert not above or any(module_of(file) in imported(other) for other in above), f"none of {above} imports {file}"


@pytest.mark.parametrize("file", FILES)
def test_what_it_says_to_read_is_there(file: str) -> None:
    names = re.findall(r"`([\w.]+)`", PATH[file])
    assert names
    for name in names:
        body: list[ast.stmt] = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        for part in name.split("."):
            kinds = (ast.ClassDef, ast.FunctionDef)
            found = next((node for node in body if isinstance(node, kinds) and node.name == part), None)
            assert found is not None, f"{file} has no {name}"
            body = found.body


def test_every_room_that_a_step_needs_is_on_it() -> None:
    """All from the engine down, but for what only some models or devices have."""
    rooms = {Path(file).parts[1] for file in FILES}
    needed = {
        "engine",
        "worker",
        "sampling",
        "scheduler",
        "text",
        "models",
        "layers",
        "attention",
        "kvcache",
        "kernels",
    }
    assert needed <= rooms


def test_the_page_knows_every_room() -> None:
    table = PAGE.partition("| room | what it holds |")[2].partition("\n\n")[0]
    rooms = [path for path in (ROOT / "minillm").iterdir() if path.name not in ("__init__.py", "__pycache__", "assets")]
    for path in rooms:
        name = f"{path.name}/" if path.is_dir() else path.name
        assert re.search(rf"[`/]{re.escape(name)}", table), f"the table of rooms has no {name}"
