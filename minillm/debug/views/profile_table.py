"""A profile as tables: where a step's time went by kind of kernel, by layer, and in the host's own work."""

import sys

from rich.console import Group, RenderableType
from rich.text import Text

from minillm.debug.open_line import fresh_line
from minillm.debug.profile_report import KindRow, Phase, Profile
from minillm.debug.views.compare import bar_text
from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import STYLES, make_console
from minillm.debug.views.units import amount, counted, number, percent

MOST_LAYERS = 12  # rows of a table; of more layers, the first and the last are shown
WAITS = {True: "GPU idle", False: "Python between"}  # by whether there is a GPU

# What lies in these ranges, and in no range inside them.
NAMES = {"forward": "embedding, last norm", "launch": "rest of the launch", "step": "rest of the step", "": "unknown"}


def profile_tables(profile: Profile) -> Drawing:
    """All of it: for prefill steps and decode steps, a table by kind and one by layer."""

    def draw(canvas: Canvas) -> RenderableType:
        parts: list[RenderableType] = []
        for name, phase in profile.phases().items():
            parts += [Text(f"{name}: {summary(phase)}", STYLES["title"]), Text()]
            parts += [by_kind(profile, phase).draw(canvas), Text(), by_layer(phase).draw(canvas), Text()]
        return Group(*parts, Text(footnote(profile), STYLES["note"]))

    return Drawing(draw)


def show_profile(profile: Profile) -> None:
    """Print it on stderr, where it is in nobody's way."""
    fresh_line(sys.stderr)
    make_console(stderr=True).print(profile_tables(profile))


def summary(phase: Phase) -> str:
    """``12 steps of 16 tokens for 16 requests, 2.1 ms each``."""
    whole = counted(len(phase.steps), "step")
    return f"{whole} of {_about(phase.tokens, 'token')} for {_about(phase.requests, 'request')}, " + (
        f"{amount(phase.wall / 1e6, 's')} each"
    )


def _about(mean: float, noun: str) -> str:
    return counted(1, noun) if mean == 1 else f"{number(round(mean, 1))} {noun}s"


def footnote(profile: Profile) -> str:
    return (
        f"{profile.device}; it copies at {profile.limit:,.0f} GB/s, bytes read and written. Bytes are what a kernel "
        "has to move at the least. A model that fits into a cache can be read faster than memory. Recording takes time "
        "too: without a profiler a step is shorter."
    )


def by_kind(profile: Profile, phase: Phase) -> Drawing:
    """A row a kind of kernel, of a mean step, and one for the time in which nothing ran."""
    columns = [
        Col("kernels"), Col("calls", "right", spare=3), Col("us", "right"), Col("share", "right"), Col("", spare=4),
        Col("bytes", "right", spare=1), Col("GB/s", "right"), Col("of copy", "right"), Col("GFLOP/s", "right", spare=2),
    ]  # fmt: skip

    def draw(canvas: Canvas) -> RenderableType:
        rows: list[Cells] = [_kind_cells(canvas, row, profile.limit, phase.wall) for row in phase.kinds]
        overlap = sum(row.microseconds for row in phase.kinds) - phase.busy
        if overlap > 0.01 * phase.wall:  # streams beside each other
            rows.append(["at the same time", "", f"-{number(round(overlap, 1))}", "", "", "", "", "", ""])
        idle: Cells = [WAITS[profile.on_gpu], "", number(round(phase.idle, 1)), percent(phase.idle, phase.wall)]
        rows.append([*idle, bar_text(canvas, phase.idle, phase.wall, 12, "dim"), "", "", "", ""])
        rows.append(["a step", "", number(round(phase.wall, 1)), "100%", "", "", "", "", ""])
        return table(canvas, columns, rows)

    return Drawing(draw)


def _kind_cells(canvas: Canvas, row: KindRow, limit: float, wall: float) -> Cells:
    speed: Cells = ["", "", ""]
    if row.bytes:
        speed = [amount(row.bytes, "B"), f"{row.gb_per_s:,.1f}", percent(row.gb_per_s, limit)]
    flops = f"{row.flops / row.microseconds / 1e3:,.1f}" if row.flops and row.microseconds else ""
    share: Cells = [percent(row.microseconds, wall), bar_text(canvas, row.microseconds, wall, 12)]
    return [row.kind, number(round(row.calls, 1)), number(round(row.microseconds, 1)), *share, *speed, flops]


def by_layer(phase: Phase) -> Drawing:
    """A row a layer, then the parts of a step that are no layer's: microseconds of a mean step."""
    layers = sorted(key for key in phase.layers if isinstance(key, int))
    others = sorted((str(key) for key in phase.layers if not isinstance(key, int)), key=lambda k: -_all(phase, k))
    shown = layers if len(layers) <= MOST_LAYERS else [*layers[: MOST_LAYERS // 2], *layers[-MOST_LAYERS // 2 :]]
    columns = [
        Col("where"), Col("us", "right"), Col("share", "right"), Col("", spare=3), Col("matrix", "right", spare=1),
        Col("attention", "right", spare=1), Col("the rest", "right", spare=2),
    ]  # fmt: skip

    def draw(canvas: Canvas) -> RenderableType:
        rows: list[Cells] = []
        everything: list[int | str] = [*shown, *others]
        for key in everything:
            mine, whole = phase.layers[key], _all(phase, key)
            attention = mine.get("attention decode", 0.0) + mine.get("attention prefill", 0.0)
            matrix = mine.get("matrix", 0.0)
            name = f"layer {key}" if isinstance(key, int) else NAMES.get(key, key)
            cells: Cells = [
                number(round(us, 1)) if us else "" for us in (matrix, attention, whole - matrix - attention)
            ]
            share: Cells = [percent(whole, phase.wall), bar_text(canvas, whole, phase.wall, 12)]
            rows.append([name, number(round(whole, 1)), *share, *cells])
            if len(shown) < len(layers) and key == shown[MOST_LAYERS // 2 - 1]:
                rows.append(["...", "", "", "", "", "", ""])
        return table(canvas, columns, rows)

    return Drawing(draw)


def _all(phase: Phase, key: int | str) -> float:
    return sum(phase.layers[key].values())
