"""Kinds of steps beside each other: their time, shared out among the kinds of kernels."""

from minillm.debug.kernel_kinds import ALL_KINDS
from minillm.debug.profile_report import Phase
from minillm.debug.views.drawing import Drawing
from minillm.debug.views.profile_table import WAITS
from minillm.debug.views.table import Cells, Col, drawn
from minillm.debug.views.units import amount, number, percent


def side_by_side(phases: dict[str, Phase], on_gpu: bool) -> Drawing:
    """A column a phase, by its title."""
    columns = [Col(""), *(Col(title, "right", wraps=True) for title in phases)]
    sides = list(phases.values())
    kinds = [{row.kind: row for row in phase.kinds} for phase in sides]
    rows: list[Cells] = [["tokens in the step", *(number(round(phase.tokens, 1)) for phase in sides)]]
    rows.append(["time of the step", *(amount(phase.wall / 1e6, "s") for phase in sides)])
    rows.append(["time for a token", *(amount(phase.wall / phase.tokens / 1e6, "s") for phase in sides)])
    for kind in ALL_KINDS:
        if any(kind in one for one in kinds):
            shares = zip(kinds, sides)
            cells = [percent(one[kind].microseconds, phase.wall) if kind in one else "" for one, phase in shares]
            rows.append([kind, *cells])
    rows.append([WAITS[on_gpu], *(percent(phase.idle, phase.wall) for phase in sides)])
    matrices = [one["matrix"] for one in kinds]
    rows.append(["matrices, GB/s", *(f"{row.gb_per_s:,.1f}" for row in matrices)])
    rows.append(["matrices, GFLOP/s", *(f"{row.flops / row.microseconds / 1e3:,.1f}" for row in matrices)])
    return drawn(columns, rows)
