"""Where things lie in the clone."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
COMMAND = "python scripts/record_runs.py"


def lesson_files() -> dict[str, Path]:
    """``"03"`` -> lessons/03_paged_attention.py."""
    return {path.name[:2]: path for path in sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py"))}
