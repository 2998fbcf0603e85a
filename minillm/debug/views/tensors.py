"""Tensors at a glance: shape with letters, dtype, range, and how the numbers are spread."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from rich.table import Table
from rich.text import Text

from minillm.debug.views.compare import sparkline_text
from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, table
from minillm.debug.views.theme import STYLES
from minillm.debug.views.units import number

if TYPE_CHECKING:
    from torch import Tensor

BINS = 8
SAMPLE = 1_000_000  # the histogram looks at about so many numbers; minimum, mean and maximum at all


def shape(tensor: "Tensor", *dims: str) -> str:
    """``[T=7, hidden=256]``; a dimension without a name is its size alone."""
    if len(dims) > tensor.dim():
        raise ValueError(f"{len(dims)} names {dims} for a tensor of shape {list(tensor.shape)}")
    sizes = list(tensor.shape)
    named = [f"{name}={size}" for name, size in zip(dims, sizes)]
    return f"[{', '.join(named + [str(size) for size in sizes[len(dims) :]])}]"


@dataclass
class Stats:
    """What the numbers of a tensor are like; only finite ones count, the others are counted."""

    low: float | None = None
    mean: float | None = None
    high: float | None = None
    histogram: tuple[int, ...] = ()
    strange: int = 0  # NaN and infinite


def stats(tensor: "Tensor") -> Stats:
    """Works for every dtype, for empty tensors, and for those on the meta device, which have no numbers."""
    if tensor.is_meta or tensor.numel() == 0:
        return Stats()
    values = tensor.detach().flatten()
    values = values.abs() if values.is_complex() else values
    values = values.double() if values.dtype in (torch.int32, torch.int64, torch.float64) else values.float()
    finite = values[values.isfinite()]
    strange = values.numel() - finite.numel()
    if finite.numel() == 0:
        return Stats(strange=strange)
    low, high, mean = (float(x) for x in (finite.min(), finite.max(), finite.double().mean()))
    some = finite[:: max(finite.numel() // SAMPLE, 1)].float().cpu()
    histogram = torch.histc(some, BINS).int().tolist() if low < high else ()
    return Stats(low, mean, high, tuple(histogram), strange)


def tensor_summary(rows: "Sequence[tuple[str, Tensor, str, str]]") -> Drawing:
    """A row a tensor: ``(name, tensor, dims, meaning)``, as in ``("hidden", x, "T hidden", "one row a token")``."""
    facts = [
        (name, shape(tensor, *dims.split()), str(tensor.dtype).removeprefix("torch."), stats(tensor), meaning)
        for name, tensor, dims, meaning in rows
    ]
    columns = (
        Col("tensor"),
        Col("shape", wraps=True),
        Col("dtype", spare=1),
        Col("min", "right"),
        Col("mean", "right", spare=2),
        Col("max", "right"),
        Col("spread", spare=3),
        Col("meaning", wraps=True),
    )

    def draw(canvas: Canvas) -> Table:
        rows: list[Cells] = []
        beside = canvas.width >= 110  # else the meaning stands under the shape
        for name, form, dtype, numbers, meaning in facts:
            text = Text(form)
            if meaning and not beside:
                text.append(f"\n{meaning}", STYLES["note"])
            values = [_number(numbers.low), _number(numbers.mean), _number(numbers.high)]
            spread, note = _spread(canvas, numbers), Text(meaning, STYLES["note"])
            rows.append([Text(name, "bold"), text, dtype, *values, spread, note])
        return table(canvas, columns if beside else columns[:-1], rows)

    return Drawing(draw)


def _number(value: float | None) -> str:
    return "-" if value is None else number(value)


def _spread(canvas: Canvas, numbers: Stats) -> Text:
    """The histogram; a warning in its place where there are numbers that are none."""
    if numbers.strange:
        return Text(f"{numbers.strange} NaN/inf", STYLES["warn"])
    return sparkline_text(canvas, [count**0.5 for count in numbers.histogram])
