"""The places in a page where something made from data or code comes in.

    <!-- made: trace -->
    The built site shows here what the lesson prints. In a terminal: `python3 scripts/start.py lesson 03`.
    <!-- end -->

The built site has in its place what the maker of that name makes. Read as a file, or on a forge, comments do not show,
and the words between them say what would be there and how to see it. A picture that is made has its words between them:

    <!-- made: picture img/rooms.svg -->
    *The built site shows a picture here.* The folders of minillm as floors of a house.
    <!-- end -->
"""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pages import glossary, probes, runs
from pages.exercises import of_lesson as exercises_of

MARK = re.compile(r"^<!-- made: (\w+)(?: (\S+))? -->\n(.*?)^<!-- end -->$", flags=re.MULTILINE | re.DOTALL)

# What a chapter takes in: made from the lesson's number.
OF_LESSONS: dict[str, Callable[[str], str]] = {
    "trace": runs.markdown,
    "probes": probes.of_lesson,
    "tasks": exercises_of,
}
# What any page takes in.
OF_ALL: dict[str, Callable[[], str]] = {
    "breakpoints": probes.guide,
    "glossary": glossary.page,
    "settings": glossary.settings,
    "calculator": lambda: (Path(__file__).parent / "calculator.html").read_text(encoding="utf-8").rstrip(),
}
PICTURE = "*The built site shows a picture here.* "


def fill(markdown: str, page: str) -> str:
    """The text with everything made in its place. ``page`` is its path in docs/; ValueError says what is wrong."""
    begun, whole = markdown.count("<!-- made:"), len(MARK.findall(markdown))
    if begun != whole:
        raise ValueError(f"{page}: {begun} marks <!-- made: NAME --> begin, {whole} end with <!-- end -->")
    return MARK.sub(lambda mark: show(mark[2], mark[3], page) if mark[2] else make(mark[1], page), markdown)


def show(path: str, words: str, page: str) -> str:
    """A picture that is made, with the words that stand for it elsewhere."""
    if not words.startswith(PICTURE):
        raise ValueError(f"{page}: the words for {path} do not begin with {PICTURE!r}")
    return f"![{' '.join(words.removeprefix(PICTURE).split())}]({path})"


def make(name: str, page: str) -> str:
    """What stands for ``<!-- made: name -->`` on that page."""
    if name in OF_ALL:
        return OF_ALL[name]()
    if name not in OF_LESSONS:
        raise ValueError(f"{page}: nobody makes {name!r}; there are {', '.join([*OF_LESSONS, *OF_ALL])}")
    number = number_of(page)
    if not number:
        raise ValueError(f"{page}: {name!r} is made for a lesson's chapter, and this is none")
    return OF_LESSONS[name](number)


def number_of(page: str) -> str:
    """``lessons/03_paged_attention.md`` -> ``03``; "" if it is no chapter."""
    path = PurePosixPath(page)
    return path.name[:2] if path.parent.name == "lessons" and path.name[:2].isdigit() else ""
