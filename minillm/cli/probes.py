"""``minillm probes``: the catalogue of probes. All in a line each, or all that is known about some."""

import difflib
from fnmatch import fnmatchcase

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from minillm.debug.catalogue import TOPICS, Location, ProbeInfo, catalogue, locations
from minillm.debug.views.theme import make_console


def run(pattern: str | None, everything: bool) -> None:
    """A line a probe, by topic; with a pattern (or ``everything``) the details of those that match."""
    console = make_console()
    if pattern is None and not everything:
        list_all(console)
        return
    probes = [info for info in catalogue().values() if fnmatchcase(info.name, pattern or "*")]
    if not probes:
        near = difflib.get_close_matches(pattern or "", list(catalogue()), n=1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else 'all begin with a topic, such as "kv.*"; without a pattern all are listed'
        )
        raise ValueError(f"no probe is called {pattern!r}; {hint}")
    for info in probes:
        show(info, locations()[info.name], console)
    name = probes[0].name
    console.print(f'Stop there:       minillm generate --break {name} "What is a page?"\n'
                  f'Print and go on:  minillm generate --log {name} "What is a page?"', soft_wrap=True)  # fmt: skip


def list_all(console: Console) -> None:
    """Name and what happens, as much of it as fits in the line, in the order of a first walk."""
    width = max(map(len, catalogue()))
    for topic in TOPICS:
        console.print(Text(topic, style="title"))
        for info in catalogue().values():
            if info.topic == topic:
                what = cut(info.what, max(console.width - width - 4, 16))
                console.print(Text(f"  {info.name:{width}}  ").append(what, style="note"), soft_wrap=True)
    console.print(f"\n{len(catalogue())} probes. All about one:  minillm probes kv.allocate    (or 'kv.*', or --all)",
                  soft_wrap=True)  # fmt: skip


def cut(text: str, width: int) -> str:
    """The text, or as many of its words as fit."""
    if len(text) <= width:
        return text
    return text[: width - 3].rpartition(" ")[0].rstrip(".,;:") + " ..."


def show(info: ProbeInfo, places: list[Location], console: Console) -> None:
    """One probe: what happens, where it stops, its values, what to watch there, what must be true, conditions."""
    lesson = f", lesson {info.lesson:02}" if info.lesson else ""
    console.print(Text.assemble((info.name, "title"), (f"  {info.topic}{lesson}", "note")))
    console.print(Padding(Text(info.what), (0, 0, 0, 2)))
    if info.interpreted:
        where = Text("a comment in a Triton kernel: there only where Triton's interpreter runs it", "note")
        console.print(Padding(where, (0, 0, 0, 2)))
    stops = ", ".join(f"{place.file.removeprefix('minillm/')}:{place.stops_at}" for place in places)
    console.print(Padding(Text.assemble(("stops at ", "note"), stops), (0, 0, 0, 2)))
    tables = {
        "values, for --break-when and --log": info.values,
        "to watch, once it has stopped": info.watch,
        "must be true there": info.must,
        "conditions, for --break-when": info.conditions,
    }
    for title, table in tables.items():
        if table:
            console.print(Text(f"  {title}", style="note"))
            console.print(Padding(meanings(table, console.width), (0, 0, 0, 4)))
    console.print()


def meanings(table: dict[str, str], width: int) -> Table:
    """Expressions beside their meanings; below them, where an expression is long or the terminal narrow."""
    longest = max(map(len, table))
    grid = Table.grid(padding=(0, 2))
    if longest <= width // 3:
        grid.add_column(no_wrap=True)
        grid.add_column()
        for expression, meaning in table.items():
            grid.add_row(Text(expression, style="title"), Text(meaning))
        return grid
    grid.add_column()
    for expression, meaning in table.items():
        grid.add_row(Text(expression, style="title"))
        grid.add_row(Padding(Text(meaning), (0, 0, 0, 2)))
    return grid
