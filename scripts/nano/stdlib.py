"""The Python standard library as training text: it is on every machine that can run this, so nothing is downloaded."""

import ast
import hashlib
import platform
import sysconfig
import textwrap
from dataclasses import dataclass
from pathlib import Path

# Tests and whole applications (too much of one kind), tables (nothing to learn), what is not the library's own.
SKIP = {
    "site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "encodings", "pydoc_data",
    "ensurepip", "turtledemo", "__pycache__", "__phello__",
}  # fmt: skip
SKIP_PREFIX = "_sysconfigdata"
MAX_BYTES = 250_000
FEWEST_FILES = 250


@dataclass
class Library:
    """The texts of one Python's library, split into training and held-out files."""

    train: dict[str, str]
    held_out: dict[str, str]

    def facts(self) -> dict[str, int | str]:
        """What the model card says of it."""
        return {
            "python": platform.python_version(),
            "train_files": len(self.train),
            "train_bytes": sum(len(text.encode()) for text in self.train.values()),
            "held_out_files": len(self.held_out),
            "held_out_bytes": sum(len(text.encode()) for text in self.held_out.values()),
        }


def is_held_out(path: str) -> bool:
    """5 % of all paths, by hash: the same file is held out on every machine and in every Python version."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") % 20 == 0


def load_library(root: Path | None = None) -> Library:
    """Read the library of the Python that runs this (or of `root`)."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    library = Library({}, {})
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if SKIP & set(name.split("/")[:-1]) or path.name.startswith(SKIP_PREFIX) or path.stat().st_size > MAX_BYTES:
            continue
        text = path.read_text(encoding="utf-8", errors="ignore").replace("\r\n", "\n").strip("\n") + "\n"
        if len(text) > 100:
            (library.held_out if is_held_out(name) else library.train)[name] = text
    if len(library.train) < FEWEST_FILES or not library.held_out:
        raise SystemExit(
            f"Only {len(library.train)} library files under {root}; expected at least {FEWEST_FILES}. "
            "Is this Python installed without its library's source? Give another folder with --stdlib."
        )
    return library


def functions_of(text: str) -> list[str]:
    """Every function of a file as a text of its own, moved to the left margin.

    A file opens with comments and imports, so a model that saw only whole files could not begin with `def`; prompts do.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return []
    lines = text.splitlines()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [
        textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])) + "\n"
        for node in functions
        if node.end_lineno - node.lineno >= 2
    ]
