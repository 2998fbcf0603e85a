"""``minillm probes``: the catalogue of probes, as a table."""

import difflib
from fnmatch import fnmatchcase

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from minillm.debug.catalogue import Location, ProbeInfo, catalogue, locations
from minillm.debug.views.theme import make_console


def run(pattern: str) -> None:
    """Print the probes that match, topic by topic."""
    probes = [info for info in catalogue().values() if fnmatchcase(info.name, pattern)]
    if not probes:
        near = difflib.get_close_matches(pattern, list(catalogue()), n=1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else 'all begin with a topic, such as "kv.*"; without a pattern all are listed'
        )
        raise ValueError(f"no probe is called {pattern!r}; {hint}")
    places = locations()
    table = Table(show_lines=True)
    table.add_column("probe, and where it stands", overflow="fold", ratio=5)
    table.add_column("what happens there", ratio=6)
    table.add_column("what to watch", overflow="fold", ratio=6)
    for info in probes:
        table.add_row(name_and_places(info, places[info.name]), info.what, to_watch(info))
    console = make_console()
    console.print(table)
    name = probes[0].name
    console.print(f'{len(probes)} probes. Stop at one:  minillm generate --break {name} "What is a page?"\n'
                  f'Print and go on:      minillm generate --log {name} "What is a page?"')  # fmt: skip


def name_and_places(info: ProbeInfo, places: list[Location]) -> RenderableType:
    shown = [Text(f"{place.file.removeprefix('minillm/')}:{place.line}", style="note") for place in places]
    return Group(Text(info.name, style="title"), *shown)


def to_watch(info: ProbeInfo) -> Text:
    """Expressions for a debugger that stopped there, one a line, each with its meaning."""
    lines = [Text.assemble((expression, "title"), f": {meaning}") for expression, meaning in info.watch.items()]
    return Text("\n").join(lines)
