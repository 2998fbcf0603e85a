"""The site's navigation, from what is there.

mkdocs.yml names all pages that are to be; those that are not written yet are left out here.
"""

import re
from pathlib import Path
from typing import Any


def fill(nav: list[Any], docs: Path, made: list[str]) -> list[Any]:
    """The navigation with every entry that has a page, and none that has not. ``lessons 1-7`` becomes the chapters with
    these numbers, ``api`` the folder's pages; ``made`` names the pages that are not files."""
    filled = []
    for entry in nav:
        title, target = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        pages = fill(target, docs, made) if isinstance(target, list) else pages_of(target, docs, made)
        if isinstance(target, list) or is_folder(target):
            filled += [{title: pages}] if pages else []
        elif pages:
            filled.append({title: pages[0]} if title else pages[0])
    return filled


def is_folder(target: str) -> bool:
    return not target.endswith(".md")


def pages_of(target: str, docs: Path, made: list[str]) -> list[str]:
    """The pages that an entry stands for, as far as there are any; a folder's index comes first."""
    numbers = re.fullmatch(r"lessons (\d+)-(\d+)", target)
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        found = sorted((docs / "lessons").glob("[0-9][0-9]_*.md"))
        return [f"lessons/{page.name}" for page in found if in_english(page) and first <= int(page.name[:2]) <= last]
    if is_folder(target):
        found = [page for page in made if page.startswith(f"{target}/")]
        return sorted(found, key=lambda page: (page != f"{target}/index.md", page))
    return [target] if (docs / target).exists() else []


def in_english(page: Path) -> bool:
    """``page.md``, not its translation ``page.zh.md``."""
    return page.name.count(".") == 1
