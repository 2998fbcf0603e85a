"""Two kinds of text against each other: which experts the one is given more often than the other."""

from typing import TYPE_CHECKING

from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing, in_a_row
from minillm.debug.views.theme import ORANGE, SKY, STYLES

if TYPE_CHECKING:
    from minillm.debug.experts import ExpertTracker

_CELL, _LABEL = 4, 6  # "+12 ", "layer "
_MUCH = 10  # percentage points that stand out


def expert_difference(one: "ExpertTracker", other: "ExpertTracker", names: tuple[str, str]) -> Drawing:
    """Each expert's share of its layer's choices with ``one``'s text, less that with ``other``'s, in percentage points.

    Beside each layer: how far apart the two are, which is the share of the choices that would have to change for the
    one text to be routed as the other is.
    """
    points = (100 * (one.shares() - other.shares())).tolist()
    layer_ids = list(one.layer_ids)
    return Drawing(lambda canvas: _draw(canvas, points, layer_ids, names))


def _draw(canvas: Canvas, points: list[list[float]], layer_ids: list[int], names: tuple[str, str]) -> Text:
    E, per_band = len(points[0]), max((canvas.width - _LABEL) // _CELL, 1)
    beside = canvas.width >= _LABEL + E * _CELL + 7
    lines: list[Text] = []
    for first in range(0, E, per_band):
        experts = range(first, min(first + per_band, E))
        heads = "".join(f"{expert:>{_CELL - 1}} " for expert in experts)
        lines.append(Text(("layer " + heads + ("  apart" if beside else "")).rstrip(), STYLES["note"]))
        for layer, row in zip(layer_ids, points):
            line = Text(f"{layer:>5} ").append_text(Text().join(_cell(row[expert]) for expert in experts))
            if beside:
                line.append(f"{sum(map(abs, row)) / 2:>6.0f}%")
            line.rstrip()
            lines.append(line)
        lines.append(Text())
    looks = ((f"+ more with {names[0]}", SKY), (f"- more with {names[1]}", ORANGE))
    parts = [Text("points of a percent", STYLES["note"]), *(Text(words, style) for words, style in looks)]
    return Text("\n", no_wrap=True, overflow="crop").join([*lines, in_a_row(parts, canvas.width)])


def _cell(points: float) -> Text:
    rounded = round(points)
    style = STYLES["free"] if not rounded else SKY if rounded > 0 else ORANGE
    return Text(
        f"{f'{rounded:+}' if rounded else '0':>{_CELL - 1}} ", f"bold {style}" if abs(rounded) >= _MUCH else style
    )
