"""Each lesson's probes: where to stop first, what to look at there; and the breakpoint guide."""

import ast
from fnmatch import fnmatchcase
from pathlib import Path

from pages.clone import ROOT, lesson_files
from pages.words import anchor, code, protect

from minillm.debug.catalogue import Location, ProbeInfo, catalogue, locations
from minillm.debug.guide import markdown


def guide() -> str:
    """The breakpoint guide, below its title."""
    return protect(markdown())


def read_anew() -> None:
    """Forget where the probes stood: the code may have changed since."""
    catalogue.cache_clear()
    locations.cache_clear()


def of_lesson(number: str) -> str:
    """The probes that the lesson says to stop at, with all there is to know, and those that it is first to meet."""
    script = lesson_files()[number]
    patterns = breaks(script).split(",")
    named = [info for info in catalogue().values() if any(fnmatchcase(info.name, pattern) for pattern in patterns)]
    parts = [f"```bash\npython -m minillm lesson {number} --break {breaks(script)}\n```"]
    parts += [in_full(info, locations()[info.name]) for info in named]
    first = [info for info in catalogue().values() if info.lesson == int(number) and info not in named]
    if first:
        rows = ["| probe | what happens there | stops at |", "| --- | --- | --- |"]
        rows += [f"| {linked(info)} | {info.what} | {places(locations()[info.name])} |" for info in first]
        fold = f'??? info "{len(first)} more that this lesson is the first to come by"'
        parts.append("\n".join([fold, "", *("    " + row for row in rows)]))
    return "\n\n".join(parts)


def breaks(script: Path) -> str:
    """``"kv.allocate,kv.free"``: what the script gives as ``breaks=``."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Lesson":
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            return ast.literal_eval(given["breaks"])
    raise ValueError(f"{script.name} has no Lesson(..., breaks=...)")


def in_full(info: ProbeInfo, found: list[Location]) -> str:
    """One probe as a box: what happens, the statement it stops on, what to watch, what must hold, conditions."""
    lines = [f'!!! probe "{info.name}"', "", f"    {info.what}", ""]
    for place in found:
        lines += [f"    Stops at `{place.file}:{place.stops_at or place.line}`:", ""]
        lines += ["    ```python", f"    {statement(place)}", "    ```", ""]
    for title, given in (("Watch", info.watch), ("Must be true", info.must), ("Conditions", info.conditions)):
        if given:
            lines += [f"    **{title}**", ""]
            lines += [f"    - {code(expression)}: {meaning}" for expression, meaning in given.items()] + [""]
    lines.append(f"    [In the guide](../breakpoints.md#probe-{anchor(info.name)})")
    return "\n".join(lines).rstrip()


def statement(place: Location) -> str:
    """The first line of the statement that a breakpoint there stops on."""
    lines = (ROOT / place.file).read_text(encoding="utf-8").splitlines()
    return lines[(place.stops_at or place.line) - 1].strip()


def linked(info: ProbeInfo) -> str:
    """Its name, leading to its entry in the breakpoint guide. (For pages in docs/lessons.)"""
    return f"[`{info.name}`](../breakpoints.md#probe-{anchor(info.name)})"


def places(found: list[Location]) -> str:
    return ", ".join(f"`{place.file}:{place.stops_at or place.line}`" for place in found)
