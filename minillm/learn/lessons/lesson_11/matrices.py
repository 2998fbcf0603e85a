"""A model's own matrices, multiplied with few rows and with many: bytes, operations, time, and which limit is near."""

import time
from dataclasses import dataclass

import torch

from minillm.debug.device_speed import wait_for
from minillm.debug.views.drawing import Drawing
from minillm.debug.views.roofline import Point, roofline
from minillm.debug.views.table import Cells, drawn, numbers
from minillm.debug.views.units import amount, number, percent
from minillm.engine.engine import Engine
from minillm.layers.linear import LinearBase

FAR = 0.05  # a share of a limit below which something else is in the way


@dataclass
class Limits:
    """What a device can do: bytes that it copies, in GB/s, and operations, in GFLOP/s."""

    copy: float
    peak: float

    @property
    def ridge(self) -> float:
        """Operations in the time in which one byte comes."""
        return self.peak / self.copy


@dataclass
class Product:
    """All layers' matrices times some rows: seconds (the best of some), bytes moved, operations."""

    rows: int
    seconds: float
    moved: int
    flops: int

    @property
    def gb_per_s(self) -> float:
        return self.moved / self.seconds / 1e9

    @property
    def gflop_per_s(self) -> float:
        return self.flops / self.seconds / 1e9

    def nearer_to(self, limits: Limits) -> str:
        memory, arithmetic = self.gb_per_s / limits.copy, self.gflop_per_s / limits.peak
        if max(memory, arithmetic) < FAR:
            return "neither"
        return "memory's limit" if memory > arithmetic else "arithmetic's"


def multiply(engine: Engine, rows: int) -> Product:
    """``rows`` tokens at once, an input of ones for each matrix."""
    matrices = [module for module in engine.model.modules() if isinstance(module, LinearBase)]
    size, best = engine.dtype.itemsize, float("inf")
    widths = {matrix.in_features for matrix in matrices}
    inputs = {K: torch.ones(rows, K, dtype=engine.dtype, device=engine.device) for K in widths}
    with torch.inference_mode():
        for _ in range(4):
            wait_for(engine.device)
            start = time.perf_counter()
            for matrix in matrices:
                matrix(inputs[matrix.in_features], None)  # of no batch: only adapters would look
            wait_for(engine.device)
            best = min(best, time.perf_counter() - start)
    moved = sum(m.bytes_read + rows * (m.in_features + m.out_features) * size for m in matrices)
    return Product(rows, best, moved, sum(2 * rows * m.in_features * m.out_features for m in matrices))


def in_a_table(products: list[Product], limits: Limits) -> Drawing:
    rows: list[Cells] = []
    for one in products:
        speed, work = one.gb_per_s, one.gflop_per_s
        shares = [f"{speed:,.1f}", percent(speed, limits.copy), f"{work:,.1f}", percent(work, limits.peak)]
        first = [number(one.rows), number(round(one.flops / one.moved, 1)), amount(one.seconds, "s")]
        rows.append([*first, *shares, one.nearer_to(limits)])
    titles = "tokens", "FLOP a byte", "time", "GB/s", "of copy", "GFLOP/s", "of peak", "nearer to"
    return drawn(numbers(*titles), rows)


def as_roofline(products: list[Product], limits: Limits) -> Drawing:
    points = [Point(f"{p.rows} token{'s' * (p.rows > 1)}", p.flops / p.moved, p.gflop_per_s) for p in products]
    return roofline(points, limits.copy, limits.peak)
