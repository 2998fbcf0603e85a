"""What the routers of a mixture of experts say of one token: every expert's probability, layer by layer."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing, in_a_row
from minillm.debug.views.theme import SKY, STYLES

_CELL = 4  # "[52]", or " 14 "
_LABEL = 6  # "layer "


class Routed(NamedTuple):
    """One token in one layer: the probabilities of all E experts, the k that were chosen, and what each counts."""

    layer: int
    probs: list[float]
    experts: list[int]
    weights: list[float]


def router_table(routed: Sequence[Routed]) -> Drawing:
    """A row a layer, an expert a column, the chosen ones in brackets; beside it what their outputs count.

    Where there are more experts than columns, each layer names its likeliest ones instead.
    """
    facts = list(routed)
    return Drawing(lambda canvas: _draw(canvas, facts))


def _draw(canvas: Canvas, routed: list[Routed]) -> Text:
    E = len(routed[0].probs)
    fits = canvas.width >= _LABEL + E * _CELL
    weights = [_weights(row) for row in routed]
    beside = fits and _LABEL + E * _CELL + 3 + max(map(len, weights)) <= canvas.width
    head = "layer " + "".join(f"{expert:^{_CELL}}" for expert in range(E)) if fits else "layer   likeliest experts"
    lines = [Text((head + "   expert: weight" if beside else head).rstrip(), STYLES["note"])]
    for row, said in zip(routed, weights):
        line = Text(f"{row.layer:>5} ")
        line.append_text(_all_experts(row) if fits else _likeliest(row, canvas.width - _LABEL))
        lines.append(line.append(f"   {said}" if beside else ""))
    parts = [Text("probability in %", STYLES["note"]), Text.assemble(("[ ]", f"bold {SKY}"), (" chosen", "note"))]
    return Text("\n", no_wrap=True, overflow="crop").join([*lines, Text(), in_a_row(parts, canvas.width)])


def _weights(row: Routed) -> str:
    """``7: 0.79  1: 0.21``."""
    return "  ".join(f"{expert}: {weight:.2f}" for expert, weight in zip(row.experts, row.weights))


def _all_experts(row: Routed) -> Text:
    return Text.assemble(*(_cell(f"{100 * p:.0f}", expert in row.experts) for expert, p in enumerate(row.probs)))


def _likeliest(row: Routed, room: int) -> Text:
    """``[61: 14] [5: 9] 17: 4``: as many as there is room for, the chosen ones first."""
    line = Text()
    for expert in sorted(range(len(row.probs)), key=lambda expert: -row.probs[expert]):
        cell = _cell(f"{expert}: {100 * row.probs[expert]:.0f}", expert in row.experts)
        if line.cell_len + cell.cell_len + 1 > room:
            break
        line.append_text(cell).append(" ")
    return line


def _cell(text: str, chosen: bool) -> Text:
    return Text(f"{f'[{text}]' if chosen else text:^{_CELL}}", f"bold {SKY}" if chosen else STYLES["free"])
