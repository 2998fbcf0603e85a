"""Colours, letters and styles: each meaning has one look, defined here, and none depends on colour alone.

The palette is Okabe and Ito's (2008), which stays apart for people who see red and green alike. A request has a letter
beside its colour, so that a printed page or a pipe tells as much as a screen.
"""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.theme import Theme

from minillm.debug.views.drawing import Canvas, Drawing, in_a_row

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"

REQUEST_COLOURS = (SKY, ORANGE, GREEN, PURPLE, BLUE, YELLOW)  # vermillion is kept for what should worry

STYLES = {
    "new": f"bold #000000 on {YELLOW}",  # came in this step
    "cached": f"italic {SKY}",  # computed before, and used again
    "free": "dim",
    "waste": VERMILLION,  # reserved and not used
    "warn": f"bold {VERMILLION}",
    "good": f"bold {GREEN}",
    "note": "dim",
    "title": "bold",
    "prompt.even": "#E5E9F0 on #2E3A48",
    "prompt.odd": "#E5E9F0 on #43536A",
    "output.even": "#E5F3EE on #17503F",
    "output.odd": "#E5F3EE on #0B6E55",
}

# Mark -> what it says in a legend, and its style.
_LEGEND = {
    "filled": ("filled", ""),
    "new": ("this step", "bold"),
    "reserved": ("empty", "dim"),
    "free": ("free page", STYLES["free"]),
    "cached": ("kept by the prefix cache", STYLES["cached"]),
}


def letter(request_id: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA, as spreadsheets name columns."""
    name, rest = "", request_id + 1
    while rest:
        rest, digit = divmod(rest - 1, 26)
        name = chr(ord("A") + digit) + name
    return name


def colour(request_id: int) -> str:
    return REQUEST_COLOURS[request_id % len(REQUEST_COLOURS)]


def tag(request_id: int) -> Text:
    """A request's letter in its colour."""
    return Text(letter(request_id), style=f"bold {colour(request_id)}")


def legend(*marks: str, requests: Iterable[int] = (), **others: str) -> Drawing:
    """One line that explains marks by name (``"filled"``), ids of requests, and others: ``x="what it means"``."""
    ids = list(requests)
    return Drawing(lambda canvas: legend_text(canvas, marks, ids, others))


def legend_text(
    canvas: Canvas, marks: Iterable[str], requests: Iterable[int] = (), others: dict[str, str] | None = None
) -> Text:
    """The same, where the canvas is known already."""
    parts = [
        Text.assemble((getattr(canvas.marks, name), _LEGEND[name][1]), " ", (_LEGEND[name][0], STYLES["note"]))
        for name in marks
    ]
    parts += [Text.assemble(mark, " ", (meaning, STYLES["note"])) for mark, meaning in (others or {}).items()]
    if ids := sorted(requests):
        shown = Text(" ").join(tag(id) for id in ids[:12])
        more = " ... requests" if len(ids) > 12 else " requests" if len(ids) > 1 else " request"
        parts.append(Text.assemble(shown, (more, STYLES["note"])))
    return in_a_row(parts, canvas.width)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The reader of our output has gone, as in ``| head``: end quietly, and not as a failure."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(0) from None


class _PlainConsole(_Console):
    """A console that says it knows only ASCII: rich then draws its own lines with it, and so do our marks."""

    @property
    def encoding(self) -> str:
        return "ascii"


def make_console(plain: bool = False, width: int | None = None, **options: Any) -> Console:
    """The console that lessons print on. ``plain``: no control codes, lines and marks in ASCII, nothing moves.

    Without it, rich looks at the output: a pipe gets the same layout without control codes, and NO_COLOR leaves out
    colours. Further options are rich's own (``record=True``, ``file=...``).
    """
    settings: dict[str, Any] = {"width": width, "highlight": False, "emoji": False, "theme": Theme(STYLES), **options}
    if width is not None:
        settings.setdefault("height", 25)  # without one, rich takes 80 columns wherever TERM is "dumb"
    if plain:
        settings |= {"color_system": None, "force_terminal": False, "force_interactive": False}
    return _PlainConsole(**settings) if plain else _Console(**settings)
