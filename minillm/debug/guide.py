"""The breakpoint guide: every probe in the order in which a first run meets it, then by topic, and what to tick off.

Written from the catalogue, from the source (file, line, statement) and from launch.json, so nothing in it can grow old:
``python -m minillm.debug.guide`` prints the page, in Markdown.
"""

import html
import inspect
from collections.abc import Callable, Mapping

from minillm.debug import console
from minillm.debug.catalogue import PACKAGE, TOPICS, Location, ProbeInfo, catalogue, locations
from minillm.debug.first_walk import CHECKLIST, STAGES
from minillm.debug.launch import Configuration, configurations, stopping_at

AT_A_STOP = """\
A stop says what the probe was given. Where a value has another name in the stopped frame, both stand there, as in
`pool (self.pool)`: the first is for conditions, the second is the one to type. If the output goes to a file, the stop
still shows in the terminal. A condition that never held is told of at the end.

At a stop, in pdb as in VS Code's debug console, these are there without an import. They find the scheduler, the batch
and the plan by themselves:"""

IN_A_KERNEL = (
    "It is a comment in a Triton kernel: it comes by where Triton's interpreter runs the kernel on a CPU, as lesson 08 "
    "does, and a compiled kernel has nothing of it."
)
_HELPERS = ("where", "why", "shapes", "pages", "table", "tree", "look", "disarm")


def markdown() -> str:
    """The page below its title."""
    return "\n\n".join([_how(), _walk(), _by_topic(), _checklist()]) + "\n"


def _how() -> str:
    """The ways to stop somewhere, and what can be asked there."""
    rows = [[f"**{one.title}**", _stops(one)] for one in configurations()]
    helpers = [(name, getattr(console, name)) for name in _HELPERS]
    asked = [[f"`{name}{_parameters(function)}`", _first_line(function)] for name, function in helpers]
    return "\n\n".join([
        "## How to stop",
        "In VS Code: F5, and one of these. Each asks where to stop and under which condition; Enter takes what stands "
        "there.",
        _table(["configuration", "stops at"], rows),
        "In a terminal, in pdb:",
        "```bash\npython -m minillm lesson 03 --break kv.allocate\n"
        "python -m minillm lesson 03 --break 'kv.*,scheduler.preempt' --break-when 'request.id == 2'\n"
        "MINILLM_BREAK=kv.allocate MINILLM_BREAK_WHEN='7 in request.pages' python my_own_script.py\n"
        "python -m minillm generate \"What is a page?\" --log 'scheduler.*'    # print a line, and go on\n```",
        AT_A_STOP,
        _table(["type", "to see"], asked),
    ])  # fmt: skip


def _stops(one: Configuration) -> str:
    """The probes of a configuration, or what its own name says if they are many or none."""
    return ", ".join(map(_link, one.probes)) if 0 < len(one.probes) <= 4 else one.note


def _walk() -> str:
    """All probes in the order in which a run meets them."""
    parts = ["## The first walk", "The engine's birth and one request's life. *Engine: first walk* stops where things "
             "happen once; type the names of the others at its prompt."]  # fmt: skip
    for number, info in enumerate(catalogue().values(), 1):
        if info.name in STAGES:
            parts.append(f"### {STAGES[info.name]}")
        parts.append(_entry(number, info))
    return "\n\n".join(parts)


def _entry(number: int, info: ProbeInfo) -> str:
    """One probe: what happens, where it stops, what to watch, what must be true, conditions."""
    parts = [f"#### {number}. {info.name} {{ #{_anchor(info.name)} }}", info.what]
    if info.captured:
        parts.append("*It stands in the model's forward pass: while a CUDA graph replays that, no Python runs here.*")
    if info.interpreted:
        parts.append(f"*{IN_A_KERNEL}*")
    parts += [f"Stops at {_place(p)}:\n\n```python\n{_statement(p)}\n```" for p in locations()[info.name]]
    for title, table in (("Watch", info.watch), ("Must be true", info.must), ("Conditions", info.conditions)):
        if table:
            parts.append(f"**{title}**\n\n{_list(table)}")
    named = [one.title for one in stopping_at(info.name)]
    first = f" Lesson {info.lesson:02} is the first to come by." if info.lesson else ""
    where = f"**F5**: {', '.join(named)}." if named else f"**F5**: any; type `{info.name}` at its prompt."
    return "\n\n".join([*parts, where + first])


def _by_topic() -> str:
    parts = ["## By topic"]
    for topic in TOPICS:
        found = [info for info in catalogue().values() if info.topic == topic]
        rows = [[_link(info.name), info.what, "<br>".join(_place(p) for p in locations()[info.name])] for info in found]
        parts.append(f"### {topic.capitalize()}\n\n{_table(['probe', 'what happens', 'stops at'], rows)}")
    return "\n\n".join(parts)


def _checklist() -> str:
    parts = ["## To tick off", "After a first walk one can say all of this, of the model at hand:"]
    for title, items in CHECKLIST.items():
        lines = [f"- [ ] {say} ({_link(probe)}: {_code(expression)})" for probe, expression, say in items]
        parts.append("\n".join([f"**{title}**", "", *lines]))
    return "\n\n".join(parts)


def _statement(place: Location) -> str:
    return (PACKAGE.parent / place.file).read_text(encoding="utf-8").splitlines()[place.stops_at - 1].strip()


def _place(place: Location) -> str:
    return f"`{place.file}:{place.stops_at}`"


def _anchor(name: str) -> str:
    return "probe-" + name.replace(".", "-")


def _link(name: str) -> str:
    return f"[{name}](#{_anchor(name)})"


def _list(table: Mapping[str, str]) -> str:
    return "\n".join(f"- {_code(expression)}: {meaning}" for expression, meaning in table.items())


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _code(text: str) -> str:
    """Inline code, for expressions that hold a table's border or a backtick."""
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"


def _parameters(function: Callable[..., object]) -> str:
    given = inspect.signature(function).parameters.items()
    return f"({', '.join(name if one.default is one.empty else f'[{name}]' for name, one in given)})"


def _first_line(function: Callable[..., object]) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0].replace("``", "`")


if __name__ == "__main__":
    print(markdown(), end="")
