"""Tables as a reader sees them: of a lesson's recorded run, and of a page. What a claim (claims.py) is checked against.

A cell is a number: ``54 ms (51 to 60)`` is 0.054 (seconds), from 0.051 to 0.060. A cell without a number, such as
``within noise``, is no number at all: nothing compared with it is true.
"""

import math
import re
from dataclasses import dataclass, field
from itertools import pairwise

SCALES = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "microseconds": 1e-6, "ms": 1e-3, "s": 1.0,
    "B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "KB": 1e3, "MB": 1e6, "GB": 1e9,
    "MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12, "million": 1e6, "billion": 1e9,
}  # fmt: skip
PLAIN = r"[+-]?\d(?:[\d,]*\d)?(?:\.\d+)?(?:e[+-]?\d+)?"
UNIT = r"(?:\s?(" + "|".join(sorted(map(re.escape, SCALES), key=len, reverse=True)) + r")(?![\w/]))?"
NUMBER = re.compile(rf"(?<![\w.])({PLAIN}){UNIT}")
RANGE = re.compile(rf"\(({PLAIN}){UNIT} to ({PLAIN}){UNIT}\)")
RULE = re.compile(r"^\s*─+$")


class Value(float):
    """A number as it was shown: ``text``; ``low`` and ``high`` if a range stood beside it."""

    text: str
    low: float
    high: float

    @classmethod
    def read(cls, text: str) -> "Value":
        text = text.replace("*", "").replace("`", "").strip()
        found, spread = NUMBER.search(text), RANGE.search(text)
        made = cls(_scaled(found[1], found[2]) if found else math.nan)
        made.text, made.low, made.high = text, float(made), float(made)
        if found and spread:  # a unit may stand only once, behind the number
            made.low = _scaled(spread[1], spread[2] or spread[4] or found[2])
            made.high = _scaled(spread[3], spread[4] or found[2])
        return made

    def __repr__(self) -> str:
        return self.text or "(empty)"


def _scaled(number: str, unit: str | None) -> float:
    scaled = float(number.replace(",", "")) * SCALES.get(unit or "", 1.0)
    return float(f"{scaled:.12g}")  # 51 ms is 0.051, and not 0.051000000000000004


class Values(list[Value]):
    """A column or a row. Compared with a number, or put together with one: each of them; with a column: row by row."""

    @property
    def least(self) -> float:
        return min(self)

    @property
    def most(self) -> float:
        return max(self)

    @property
    def first(self) -> Value:
        return self[0]

    @property
    def last(self) -> Value:
        return self[-1]

    @property
    def spread(self) -> float:
        """The largest by the smallest."""
        return max(self) / min(self)

    @property
    def grows(self) -> bool:
        return all(a < b for a, b in pairwise(self))

    @property
    def falls(self) -> bool:
        return all(a > b for a, b in pairwise(self))

    def __truediv__(self, other: object) -> "Values":
        return Values(map(_shown, (a / b for a, b in self._beside(other))))

    def __add__(self, other: object) -> "Values":  # type: ignore[override]
        return Values(map(_shown, (a + b for a, b in self._beside(other))))

    def __lt__(self, other: object) -> bool:
        return all(a < b for a, b in self._beside(other))

    def __gt__(self, other: object) -> bool:
        return all(a > b for a, b in self._beside(other))

    def __le__(self, other: object) -> bool:
        return all(a <= b for a, b in self._beside(other))

    def __ge__(self, other: object) -> bool:
        return all(a >= b for a, b in self._beside(other))

    def __eq__(self, other: object) -> bool:
        return all(a == b for a, b in self._beside(other))

    def _beside(self, other: object) -> list[tuple[float, float]]:
        others = list(other) if isinstance(other, list) else [float(other)] * len(self)  # type: ignore[arg-type]
        if len(others) != len(self):
            raise ValueError(f"{len(self)} values beside {len(others)}")
        return list(zip(self, others))

    def __repr__(self) -> str:
        return " | ".join(map(repr, self))


def _shown(number: float) -> Value:
    return Value.read(f"{number:.6g}")


@dataclass
class Table:
    """headings: the columns', the first one's too. rows: the cells of each, as text."""

    headings: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def column_of(self, heading: str) -> int | None:
        return _find(heading, self.headings)

    def row_of(self, label: str) -> int | None:
        """A row by its first cell, or else by any words of it."""
        place = _find(label, [row[0] for row in self.rows])
        return _find(label, [" ".join(row) for row in self.rows]) if place is None else place


def _find(wanted: str, names: list[str]) -> int | None:
    """The place of a name: that very one, or else the only one that begins with the wanted words, or has them."""
    plain = [name.replace("*", "").replace("`", "").strip() for name in names]
    if wanted in plain:
        return plain.index(wanted)
    for fits in (str.startswith, str.__contains__):
        places = [place for place, name in enumerate(plain) if fits(name, wanted)]
        if places:
            return places[0] if len(places) == 1 else None
    return None


def of_run(lines: list[str]) -> list[Table]:
    """The tables that a lesson has printed: headings, a rule, rows up to a blank line."""
    found = []
    for at, line in enumerate(lines):
        if RULE.match(line) and at and lines[at - 1].strip():
            top, end = at, at + 1
            while top and lines[top - 1].strip():
                top -= 1
            while end < len(lines) and lines[end].strip() and not RULE.match(lines[end]):
                end += 1
            found.append(_cut(lines[top:at], lines[at + 1 : end]))
    return found


def _cut(head: list[str], body: list[str]) -> Table:
    """Columns are parted by two blanks or more that go through all lines."""
    width = max(map(len, head + body), default=0)
    padded = [line.ljust(width) for line in head + body]
    ink = "".join("#" if any(line[at] != " " for line in padded) else " " for at in range(width))
    spans = [found.span() for found in re.finditer(r"#+(?: #+)*", ink)]
    cells = [[line[start:end].strip() for start, end in spans] for line in padded]
    titles = [" ".join(words for words in column if words) for column in zip(*cells[: len(head)])]
    table = Table(titles)
    for row in cells[len(head) :]:
        if row[0] or not table.rows:
            table.rows.append(row)
        else:  # a cell that was too long goes on below
            table.rows[-1] = [" ".join(filter(None, pair)) for pair in zip(table.rows[-1], row)]
    return table


def of_page(text: str) -> list[Table]:
    """The Markdown tables of a text."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text + "\n", flags=re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        if len(rows) > 2 and all(re.fullmatch(r":?-+:?", cell) for cell in rows[1]):
            found.append(Table(rows[0], rows[2:]))
    return found
