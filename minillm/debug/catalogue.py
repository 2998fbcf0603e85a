"""Every probe of the engine: what happens there, what to watch, what must be true, and where in the code it stands.

The words are data, in catalogue.yaml beside this file. The places are read from the source each time, so that no line
number is ever written down, and none can be wrong.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from minillm.kernels.triton.comment_probes import with_probes

PACKAGE = Path(__file__).resolve().parent.parent
TOPICS = ("birth", "scheduling", "pages", "prefix cache", "model", "attention", "sampling", "text", "profiling")


@dataclass(frozen=True)
class ProbeInfo:
    """One probe. ``values``, ``watch``, ``must`` and ``conditions`` map a name or an expression to its meaning.

    Conditions are for ``--break-when``, over the values; ``watch`` and ``must`` are for a debugger that stopped there,
    over the caller's own names. ``lesson`` is the first that comes by, ``captured`` that a CUDA graph replays past it,
    ``interpreted`` that it is a comment in a kernel and comes by in Triton's interpreter alone.
    """

    name: str
    topic: str
    what: str
    lesson: int | None
    values: dict[str, str]
    watch: dict[str, str]
    must: dict[str, str]
    conditions: dict[str, str] = field(default_factory=dict)
    captured: bool = False
    interpreted: bool = False


class Location(NamedTuple):
    """Where a probe stands (``minillm/scheduler/scheduler.py``), its line, and the line a breakpoint there stops on."""

    file: str
    line: int
    stops_at: int


class Site(NamedTuple):
    """A place in the source that calls ``probe``; ``stops_at`` is 0 where no statement is sure to come next."""

    name: str
    file: str
    line: int
    stops_at: int
    values: tuple[str, ...]


@lru_cache(maxsize=1)
def catalogue() -> dict[str, ProbeInfo]:
    """All probes by name, in the order of a first walk: the engine's birth, then one request's life."""
    import yaml  # only whoever asks pays for it

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = yaml.load((PACKAGE / "debug" / "catalogue.yaml").read_text(encoding="utf-8"), Loader=loader)
    return {entry["name"]: ProbeInfo(**entry) for entry in entries}


@lru_cache(maxsize=1)
def locations() -> dict[str, list[Location]]:
    """Every place of every probe in the code, by name; names in the catalogue's order."""
    places: dict[str, list[Location]] = {name: [] for name in catalogue()}
    for site in sites():
        places.setdefault(site.name, []).append(Location(site.file, site.line, site.stops_at))
    return places


def sites(package: Path = PACKAGE) -> Iterator[Site]:
    """Every ``probe("name", value=...)`` in the sources of a package, file by file, top to bottom."""
    for path in sorted(package.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "probe(" in source:
            yield from _sites_in(ast.parse(with_probes(source)), path.relative_to(package.parent).as_posix(), after=0)


def _sites_in(node: ast.AST, file: str, after: int) -> Iterator[Site]:
    """The sites below ``node``; ``after`` is the line that runs once all of it has run, 0 if that is not sure."""
    for name, value in ast.iter_fields(node):
        if (
            not isinstance(value, list)
            or not value
            or not isinstance(value[0], ast.stmt | ast.ExceptHandler | ast.match_case)
        ):
            continue
        # What follows the last statement of an "if" or a "with" is what follows that. A loop goes back to its head.
        follows = after if isinstance(node, ast.If | ast.With) and name in ("body", "orelse") else 0
        for statement, successor in zip(value, [*value[1:], None]):
            line = getattr(successor, "lineno", 0) if successor else follows
            call = _probe_call(statement)
            if call:
                keywords = tuple(keyword.arg or "**" for keyword in call.keywords)
                yield Site(_name_of(call), file, statement.lineno, line, keywords)
            else:
                yield from _sites_in(statement, file, line)


def _probe_call(statement: ast.stmt) -> ast.Call | None:
    """The call of ``probe`` in a statement ``probe.on and probe(...)``."""
    if not isinstance(statement, ast.Expr):
        return None
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "probe":
            return node
    return None


def _name_of(call: ast.Call) -> str:
    name = call.args[0] if call.args else None
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else "?"
