"""The lessons' recorded runs: what each printed, kept as data in minillm/learn/lessons/lesson_NN/run.json.

Times differ from run to run and from machine to machine, so what was recorded cannot be compared with a new run. But
with a clock that counts instead of measuring (see record.py) a lesson prints the same each time. So each part is there
twice: ``lines``, as measured, in colour, which the site shows; and ``counted``, what the lesson says with the counting
clock, which a new run of this kind must say again, apart from a number's last digits.

The file is written line by line as the terminal showed it, so that a change of it can be read.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pages.clone import ROOT
from pages.picture import WIDTH, Line, draw, plain
from pages.quiet import LIMIT

FOLDER = ROOT / "minillm" / "learn" / "lessons"
LAST = "Try next"  # the part that every lesson ends with; a chapter says this in its own words
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass
class Part:
    """What a lesson prints under one heading. ``counted`` is plain text; the same as `lines` if no time is in it."""

    title: str
    lines: list[Line]
    counted: list[str]

    @property
    def plain(self) -> list[str]:
        return [plain(line) for line in self.lines]


@dataclass
class Run:
    """about: when, where and with what it was recorded. pictures: what the lesson's own pictures are drawn from, if it
    has any (see pictures.py)."""

    lesson: str
    about: dict[str, Any]
    parts: list[Part]
    width: int = WIDTH
    pictures: dict[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> list[Part]:
        """The parts that the site shows."""
        return [part for part in self.parts if part.title != LAST]

    def as_json(self) -> str:
        """One line of text a line of the file."""
        parts = ",\n".join(_part_as_json(part) for part in self.parts)
        head = {"lesson": self.lesson, "about": self.about, "width": self.width}
        if self.pictures:
            head["pictures"] = self.pictures
        rows = [f" {_json(name)}: {_json(value)}" for name, value in head.items()]
        return "{\n" + ",\n".join(rows) + ',\n "parts": [\n' + parts + "\n ]\n}\n"


def _part_as_json(part: Part) -> str:
    rows = [f'   "title": {_json(part.title)}', _rows("lines", [_short(line) for line in part.lines])]
    if part.counted != part.plain:
        rows.append(_rows("counted", part.counted))
    return "  {\n" + ",\n".join(rows) + "\n  }"


def _short(line: Line) -> Line | str:
    """A line without a style is its text."""
    return "".join(line) if all(isinstance(span, str) for span in line) else line  # type: ignore[arg-type]


def _long(line: Line | str) -> Line:
    return line if isinstance(line, list) else [line] if line else []


def _rows(name: str, values: Sequence[Any]) -> str:
    return f'   "{name}": [\n' + ",\n".join(f"    {_json(value)}" for value in values) + "\n   ]"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def path_of(number: str) -> Path:
    return FOLDER / f"lesson_{number}" / "run.json"


def load(number: str) -> Run:
    """FileNotFoundError if the lesson was never recorded."""
    found = json.loads(path_of(number).read_text(encoding="utf-8"))
    parts = []
    for entry in found["parts"]:
        part = Part(entry["title"], [_long(line) for line in entry["lines"]], [])
        part.counted = entry.get("counted", part.plain)
        parts.append(part)
    return Run(found["lesson"], found["about"], parts, found["width"], found.get("pictures", {}))


def save(run: Run) -> Path:
    path = path_of(run.lesson)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(run.as_json(), encoding="utf-8")
    return path


# What the site makes of a run.


def markdown(number: str) -> str:
    """The chapter's pictures, one a part, and where they were recorded."""
    run = load(number)
    figures = [figure(number, index, part) for index, part in enumerate(run.shown)]
    return "\n".join([*figures, f'<p class="recorded">{where(run)}</p>'])


def pictures(number: str) -> dict[str, str]:
    """Their files, seen from docs/, each made when the site is."""
    return {picture_path(number, index): draw(part.lines) for index, part in enumerate(load(number).shown)}


def figure(number: str, index: int, part: Part) -> str:
    """A picture as a page takes it in. Part 0 is the head of the run, with the settings."""
    what = f"Part {index}: {part.title}" if index else "How the run begins"
    said = f"What lesson {number} prints. {what}".replace("[", "(").replace("]", ")").replace('"', "'")
    link = f"../{picture_path(number, index)}"
    return f'<div class="trace" tabindex="0" markdown>\n\n![{said}]({link}){{ loading=lazy }}\n\n</div>\n'


def picture_path(number: str, index: int) -> str:
    return f"img/traces/lesson{number}_{index}.svg"


def where(run: Run) -> str:
    """``Recorded on 2026-11-20: AMD EPYC, 2 cores, Python 3.11.2, PyTorch 2.13.0.``"""
    told = run.about
    things = [told.get("cpu"), told.get("cores") and f"{told['cores']} cores"]
    things += [f"{name} {told[key]}" for key, name in (("python", "Python"), ("torch", "PyTorch")) if told.get(key)]
    machine = ", ".join(thing for thing in things if thing)
    busy = " Other programs ran meanwhile." if told.get("others", 0) > LIMIT else ""
    return f"Recorded on {told['date']}{': ' if machine else ''}{machine}.{busy}"


# Whether a run is still what the lesson does.


def agree(kept: list[Part], new: list[Part]) -> bool:
    return [part.title for part in kept] == [part.title for part in new] and all(
        same("\n".join(old.counted), "\n".join(part.counted)) for old, part in zip(kept, new)
    )


def first_difference(kept: list[Part], new: list[Part]) -> str:
    """Where two runs part, in words."""
    for old, part in zip_longest(kept, new, fillvalue=Part("no such part", [], [])):
        if old.title != part.title:
            return f"part {old.title!r} is now {part.title!r}"
        for before, after in zip_longest(old.counted, part.counted, fillvalue=""):
            if not same(before, after):
                return f"part {old.title!r} said {before.strip()!r}, now {after.strip()!r}"
    return "words moved from line to line"


def same(kept: str, new: str) -> bool:
    """Whether two texts say the same: word for word, but numbers with a point may differ a little, bars by a step."""
    old_words, new_words = words(kept), words(new)
    return len(old_words) == len(new_words) and all(
        old == new or close(old, new) for old, new in zip(old_words, new_words)
    )


def words(text: str) -> list[str]:
    """Words and numbers, each apart, without the spaces and rules that only set them out."""
    text = re.sub("[▁▂▃▄▅▆▇█]", "█", text)
    text = re.sub("[─━]+", " ", text)
    return re.findall(NUMBER.pattern + r"|[^\s\d]+", text)


def close(old: str, new: str) -> bool:
    if "." not in old + new or not (NUMBER.fullmatch(old) and NUMBER.fullmatch(new)):
        return False
    a, b = (float(text.replace(",", "")) for text in (old, new))
    return abs(a - b) <= 0.02 * max(abs(a), abs(b)) + 0.011
