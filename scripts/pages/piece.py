"""A generated file: its path and what must stand in it."""

import html
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
COMMAND = "python scripts/make_docs.py"


@dataclass
class Piece:
    """``text`` belongs into the file ``path``, which is seen from the clone."""

    path: str
    text: str

    @property
    def file(self) -> Path:
        return ROOT / self.path

    @property
    def is_stale(self) -> bool:
        return not self.file.is_file() or self.file.read_text(encoding="utf-8") != self.text

    def write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(self.text, encoding="utf-8")


def generated(name: str, text: str) -> Piece:
    """A part of a page, to be taken in by ``--8<-- "generated/NAME"``."""
    return Piece(f"docs/generated/{name}", f"<!-- {COMMAND} wrote this -->\n\n{text.rstrip()}\n")


def anchor(text: str) -> str:
    """``KV cache size`` -> ``kv-cache-size``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def code(text: str) -> str:
    """Inline code as HTML: unlike between backticks, a ``|`` in it does not end a table's cell."""
    return protect(f"<code>{html.escape(text, quote=False)}</code>")


def protect(text: str) -> str:
    """The same, with what stands in ``<code>`` safe from Markdown: else ``__getitem__`` would be bold."""

    def as_entities(found: re.Match[str]) -> str:
        return re.sub(r"[*_`|\[\]\\]", lambda sign: f"&#{ord(sign[0])};", found[0])

    return re.sub(r"(?<=<code>).*?(?=</code>)", as_entities, text)


def lesson_files() -> dict[str, Path]:
    """``"03"`` -> lessons/03_paged_attention.py."""
    return {path.name[:2]: path for path in sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))}
