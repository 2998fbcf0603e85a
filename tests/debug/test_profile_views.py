"""A trace as a picture, and a roofline: each sign stands where the numbers say, at any width."""

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import RenderableType

from minillm.debug.spans import Span
from minillm.debug.views.roofline import Point, roofline
from minillm.debug.views.theme import make_console
from minillm.debug.views.trace_lanes import trace_lanes

WIDTHS = (40, 80, 120)
# A step of 100 us: a layer with a matrix and a norm, an operator within another, and nothing in the last 40 us.
SPANS = [
    Span("step 3", "user_annotation", 0, 100),
    Span("forward", "cpu_op", 0, 60),
    Span("layer 0", "cpu_op", 0, 50),
    Span("aten::linear", "cpu_op", 0, 20),
    Span("aten::addmm", "cpu_op", 2, 18),
    Span("minillm::rms_norm", "cpu_op", 30, 50),
]
POINTS = [Point("1 token", 0.5, 8), Point("256 tokens", 50, 90)]


def show(view: RenderableType, width: int, plain: bool = True) -> list[str]:
    file = io.StringIO()
    make_console(plain, width, file=file).print(view)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", WIDTHS)
def test_lanes_are_as_long_as_their_spans_took(width: int) -> None:
    lines = show(trace_lanes(SPANS, 0, 100), width)
    assert max(map(cell_len, lines)) <= width
    room = min(width, 116)
    kernels = lines[3].rstrip()
    for kind, share, begin in (("M", 0.2, 0.0), ("N", 0.2, 0.3)):
        assert kernels.count(kind) == pytest.approx(room * share, abs=1)
        assert kernels.index(kind) == pytest.approx(room * begin, abs=1)
    assert len(kernels) == pytest.approx(room * 0.5, abs=1), "and then nothing"
    for line, (name, share) in zip(lines, (("step 3", 1.0), ("forward", 0.6), ("layer 0", 0.5))):
        assert line.startswith(f"[{name}") and len(line.rstrip()) == pytest.approx(room * share, abs=1)
    assert "M matrix" in " ".join(lines) and "copy" not in " ".join(lines)


def test_a_gpus_kernels_take_the_last_lane() -> None:
    spans = [
        *SPANS,
        Span("_paged_decode", "kernel", 70, 90, 7, 1),
        Span("cudaLaunchKernel", "cuda_runtime", 1, 2, 0, 1),
    ]
    last = show(trace_lanes(spans, 0, 100), 80)[3]
    assert last.count("D") == pytest.approx(16, abs=1) and "M" not in last


@pytest.mark.parametrize("width", WIDTHS)
def test_points_stand_under_the_roof(width: int) -> None:
    lines = show(roofline(POINTS, gb_per_s=20, gflops=100), width)
    assert max(map(cell_len, lines)) <= width
    where = {letter: next(i for i, line in enumerate(lines) if re.search(rf"\|.*{letter}", line)) for letter in "ab"}
    assert where["b"] < where["a"], "90 GFLOP/s stand above 8"
    columns = {letter: lines[row].rindex(letter) for letter, row in where.items()}
    assert columns["a"] < columns["b"], "0.5 operations a byte stand left of 50"
    flat = next(line for line in lines if "---" in line)
    assert "/" in "".join(lines) and flat.index("---") > columns["a"]
    assert "a 1 token" in " ".join(lines)
