"""A model's own matrices, multiplied with few rows and with many: bytes, operations, time, and which limit is near."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from minillm.debug.device_speed import matrix_speed, wait_for
from minillm.debug.views.drawing import Drawing
from minillm.debug.views.roofline import Point, roofline
from minillm.debug.views.table import Cells, drawn, numbers
from minillm.debug.views.units import amount, number, percent
from minillm.engine.engine import Engine
from minillm.layers.linear import LinearBase
from minillm.learn.timing import in_turns

FAR = 0.05  # a share of a limit below which something else is in the way
NEAR = 2.0  # so many times the ridge, or that part of it, is near: both limits are measured, and neither is exact


@dataclass
class Limits:
    """What a device can do: bytes that it copies, in GB/s, and operations, in GFLOP/s.

    What was reached can be done: a product that is faster than those which were to find the peak is the peak.
    """

    copy: float
    peak: float

    @property
    def ridge(self) -> float:
        """Operations in the time in which one byte comes."""
        return self.peak / self.copy


@dataclass
class Product:
    """All layers' matrices times some rows: seconds in each round, bytes moved, operations. Speeds are of the best."""

    rows: int
    seconds: list[float]
    moved: int
    flops: int

    @property
    def gb_per_s(self) -> float:
        return self.moved / min(self.seconds) / 1e9

    @property
    def gflop_per_s(self) -> float:
        return self.flops / min(self.seconds) / 1e9

    @property
    def intensity(self) -> float:
        """Operations with each byte."""
        return self.flops / self.moved

    def nearer_to(self, limits: Limits) -> str:
        memory, arithmetic = self.gb_per_s / limits.copy, self.gflop_per_s / limits.peak
        if max(memory, arithmetic) < FAR:
            return "neither"
        if 1 / NEAR < self.intensity / limits.ridge < NEAR:
            return "the ridge"
        return "memory's limit" if memory > arithmetic else "arithmetic's"

    def above_memory(self, limits: Limits) -> bool:
        """Whether its bytes came faster than a copy through memory brings any."""
        return self.gb_per_s > limits.copy


def multiply(engine: Engine, batches: Sequence[int], rounds: Iterable[int]) -> list[Product]:
    """So many tokens at once, an input of ones for each matrix; the numbers of tokens in turns."""
    matrices = [module for module in engine.model.modules() if isinstance(module, LinearBase)]
    size = engine.dtype.itemsize
    times = in_turns({rows: partial(_seconds, engine, matrices, rows) for rows in batches}, rounds)
    made = []
    for rows, seconds in times.items():
        moved = sum(m.bytes_read + rows * (m.in_features + m.out_features) * size for m in matrices)
        flops = sum(2 * rows * m.in_features * m.out_features for m in matrices)
        made.append(Product(rows, seconds, moved, flops))
    return made


@torch.inference_mode()
def _seconds(engine: Engine, matrices: list[LinearBase], rows: int) -> float:
    """Of all matrices, one after the other: the better of two."""
    widths = {matrix.in_features for matrix in matrices}
    inputs = {K: torch.ones(rows, K, dtype=engine.dtype, device=engine.device) for K in widths}
    best = float("inf")
    for _ in range(2):
        wait_for(engine.device)
        start = time.perf_counter()
        for matrix in matrices:
            matrix(inputs[matrix.in_features], None)  # of no batch: only adapters would look
        wait_for(engine.device)
        best = min(best, time.perf_counter() - start)
    return best


def limits_of(engine: Engine, copy: float, products: list[Product]) -> Limits:
    """The device's, with its peak measured at large matrices, and at these."""
    return Limits(copy, max(matrix_speed(engine.device, engine.dtype), *(one.gflop_per_s for one in products)))


def in_a_table(products: list[Product], limits: Limits) -> Drawing:
    rows: list[Cells] = []
    for one in products:
        speed, work = one.gb_per_s, one.gflop_per_s
        shares = [f"{speed:,.1f}", percent(speed, limits.copy), f"{work:,.1f}", percent(work, limits.peak)]
        first = [number(one.rows), number(round(one.intensity, 1)), amount(min(one.seconds), "s")]
        rows.append([*first, *shares, one.nearer_to(limits)])
    titles = "tokens", "FLOP a byte", "time", "GB/s", "of copy", "GFLOP/s", "of peak", "nearer to"
    return drawn(numbers(*titles), rows)


def unrest(products: list[Product]) -> float:
    """How many times as long as the fastest round of some rows their slowest took, at the most."""
    return max(max(one.seconds) / min(one.seconds) for one in products)


def as_roofline(products: list[Product], limits: Limits) -> Drawing:
    points = [Point(f"{p.rows} token{'s' * (p.rows > 1)}", p.intensity, p.gflop_per_s) for p in products]
    return roofline(points, limits.copy, limits.peak)
