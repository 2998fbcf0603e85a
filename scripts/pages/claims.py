"""Sentences about numbers, checked: behind a sentence stands, where no reader sees it, what must be true of the data.

    Page size hardly matters here. <!-- claim: column("What the page size changes", "tokens/s").spread < 4 -->
    The paper says 24 times. <!-- from: the paper -->
    Say 3 ms of 10. That is 30 %. <!-- all from: a sum; this is for the whole paragraph -->

A claim is an expression over the recorded run of the chapter's lesson, over the page's own tables, and over the code
(facts.py). It is checked by ``pytest tests/docs``. What a claim can use:

    cell("part", "row", "heading")      one number, with .low and .high if a range stands there; times are in seconds
    column("part", "heading")           all of a column: .first .last .least .most .spread .grows .falls
    row("part", "row")                  all numbers of a row
    number("part", "words {} words")    the number that stands at {} in what the lesson said
    says("part", "words")               whether the lesson said this
    near(a, b, 1.5)                     neither is more than 1.5 times the other; of columns, row by row

A part is a part of the run by its title (or how the title begins); or a section of this page; or, as
``"performance.md: On a CPU"``, a section of another page. Where several tables of a part fit, ``table=2`` says which.
A claim must hold on any machine on which the lesson is recorded: so it is about orders and ratios, with room.
"""

import ast
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pages import facts, marks, runs
from pages.clone import DOCS
from pages.tables import NUMBER, Table, Value, Values, of_page, of_run

COMMENT = re.compile(r"<!-- (claim|from|all from): (.*?)\s*-->", flags=re.DOTALL)
BLANK_AND_COMMENT = re.compile(r"[ \t]*\n?[ \t]*" + COMMENT.pattern, flags=re.DOTALL)
NODES = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult,
    ast.Div, ast.Compare, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Call, ast.keyword,
    ast.Name, ast.Load, ast.Constant, ast.Attribute, ast.List, ast.Tuple,
)  # fmt: skip
ATTRIBUTES = {"low", "high", "text", "first", "last", "least", "most", "spread", "grows", "falls"}


@dataclass
class Claim:
    page: str  # its path in docs/
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def claims_of(text: str, page: str) -> Iterator[Claim]:
    for found in COMMENT.finditer(text):
        if found[1] == "claim":
            yield Claim(page, text.count("\n", 0, found.start()) + 1, " ".join(found[2].split()))


def without(text: str) -> str:
    """The page without its claims: readers of the site need not load them."""
    return BLANK_AND_COMMENT.sub("", text)


def problem(claim: Claim, text: str) -> str:
    """Why the claim does not hold, in words: "" if it does. ``text`` is its page's."""
    data = Data(claim.page, text)
    try:
        holds = evaluate(claim.text, data)
    except (LookupError, ValueError, TypeError, SyntaxError) as error:
        return f"{claim}\n  cannot be checked: {error.args[0] if error.args else error}"
    if holds is True:
        return ""
    if holds is not False:
        return f"{claim}\n  is {holds!r}, and a claim must be true or false: compare it with something"
    seen = "".join(f"\n    {call} is {value!r}" for call, value in data.seen)
    return (
        f"{claim}\n  does not hold:{seen}\n  Read the sentence before it beside the data. If the data were measured on "
        "a busy machine, record them again (scripts/record_runs.py); if not, let the sentence say what is there."
    )


def evaluate(text: str, data: "Data") -> Any:
    """The expression's value. ValueError for whatever is no claim: no other names, no other operations."""
    tree = ast.parse(text, mode="eval")
    for node in ast.walk(tree):
        if not isinstance(node, NODES):
            raise ValueError(f"a claim has no {type(node).__name__}: {ast.unparse(node)}")
        if isinstance(node, ast.Attribute) and node.attr not in ATTRIBUTES:
            raise ValueError(f"a claim knows no .{node.attr}, only .{', .'.join(sorted(ATTRIBUTES))}")
        if isinstance(node, ast.Name) and node.id not in data.names:
            raise ValueError(f"a claim knows no {node.id}, only {', '.join(sorted(data.names))}")
    return eval(compile(tree, "claim", "eval"), {"__builtins__": {}}, data.names)


@dataclass
class Data:
    """What claims of a page look at. ``seen``: what they found, for the message."""

    page: str
    text: str
    seen: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def names(self) -> dict[str, Callable[..., Any]]:
        ours = (self.cell, self.column, self.row, self.number, self.says, near)
        return {function.__name__: self._noting(function) for function in (*ours, *facts.ALL)}

    def _noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*given: Any, **named: Any) -> Any:
            value = function(*given, **named)
            call = ", ".join([*map(repr, given), *(f"{name}={value!r}" for name, value in named.items())])
            self.seen.append((f"{function.__name__}({call})", value))
            return value

        return noting

    def cell(self, part: str, row: str, heading: str, table: int = 0) -> Value:
        found = self._table(part, table, row, heading)
        return Value.read(found.rows[found.row_of(row)][found.column_of(heading)])  # type: ignore[index]

    def column(self, part: str, heading: str, table: int = 0) -> Values:
        found = self._table(part, table, None, heading)
        place = found.column_of(heading)
        values = Values(Value.read(row[place]) for row in found.rows)  # type: ignore[index]
        return Values(value for value in values if not math.isnan(value))

    def row(self, part: str, row: str, table: int = 0) -> Values:
        found = self._table(part, table, row, None)
        values = Values(Value.read(cell) for cell in found.rows[found.row_of(row)][1:])  # type: ignore[index]
        return Values(value for value in values if not math.isnan(value))

    def number(self, part: str, words: str) -> Value:
        before, _, after = words.partition("{}")
        said = " ".join(" ".join(self._lines(part)).split())
        pattern = re.escape(before) + f"({NUMBER.pattern})" + re.escape(after)
        found = re.search(pattern, said)
        if not found:
            raise LookupError(f"part {part!r} does not say {words!r} with a number at the braces")
        return Value.read(found[1])

    def says(self, part: str, words: str) -> bool:
        return words in " ".join(" ".join(self._lines(part)).split())

    def _table(self, part: str, which: int, row: str | None, heading: str | None) -> Table:
        lines = self._lines(part)
        tables = of_page("\n".join(lines)) or of_run(lines)
        fit = [
            table
            for table in tables
            if (row is None or table.row_of(row) is not None)
            and (heading is None or table.column_of(heading) is not None)
        ]
        if which:
            fit = fit[which - 1 : which]
        if len(fit) != 1:
            there = "; ".join(f"headings {table.headings}, rows {[r[0] for r in table.rows]}" for table in tables)
            wanted = " and ".join(
                f"{what} {name!r}" for what, name in (("a row", row), ("a heading", heading)) if name is not None
            )
            raise LookupError(f"{len(fit)} tables of part {part!r} have {wanted}. There are: {there or 'no tables'}")
        return fit[0]

    def _lines(self, part: str) -> list[str]:
        other, colon, section = part.partition(".md: ")
        if colon:
            return section_of((DOCS / f"{other}.md").read_text(encoding="utf-8"), section)
        number = marks.number_of(self.page)
        parts = runs.load(number).parts if number else []
        fit = [one for one in parts if one.title == part] or [one for one in parts if one.title.startswith(part)]
        if len(fit) == 1:
            return fit[0].plain
        try:
            return section_of(self.text, part)
        except LookupError:
            there = [one.title for one in parts]
            raise LookupError(f"there are {len(fit)} parts {part!r} in the run, whose parts are {there}") from None


def section_of(text: str, title: str) -> list[str]:
    """The lines of a page's section, down to the next heading."""
    lines = text.splitlines()
    heads = [at for at, line in enumerate(lines) if re.match(r"#+ ", line)]
    for place, at in enumerate(heads):
        if lines[at].lstrip("#").split(" {")[0].strip() == title:
            return lines[at + 1 : heads[place + 1] if place + 1 < len(heads) else None]
    raise LookupError(f"the page has no section {title!r}")


def near(a: Any, b: Any, factor: float) -> bool:
    """Of two numbers, or of two columns row by row."""
    ratio = a / b
    return ratio <= factor and ratio >= 1 / factor
