"""The views of lesson 08: running softmax, splits, the walk through a page table, a kernel's lines."""

import io
import sys
from typing import Any

import pytest
from rich.console import RenderableType

from minillm.debug.kernel_lines import Line, traced
from minillm.debug.views.kernel_listing import kernel_listing
from minillm.debug.views.page_walk import Read, page_walk
from minillm.debug.views.running_softmax import Block, Split, combined, running_softmax
from minillm.debug.views.theme import make_console


def drawn(drawing: RenderableType, width: int = 80, plain: bool = True) -> str:
    out = io.StringIO()
    make_console(plain, width, file=out).print(drawing)
    return out.getvalue()


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


BLOCKS = [Block(0, 4, 3.0, 3.0, 0.0, 1.553), Block(4, 8, 2.0, 3.0, 1.0, 2.241), Block(8, 9, 5.0, 5.0, 0.135, 1.303)]


def test_rows_where_the_maximum_grows_are_marked() -> None:
    rows = words(drawn(running_softmax(BLOCKS)))
    assert ["0..3", "3.00", "3.00", "-", "1.553"] in rows
    assert ["4..7", "2.00", "3.00", "x", "1.000", "2.241"] in rows
    assert ["8", "5.00", "->", "5.00", "x", "0.135", "1.303"] in rows


def test_shares_of_the_splits() -> None:
    rows = words(drawn(combined([Split(0, 64, 1.0, 2.0, 0.5), Split(64, 65, 2.0, 3.0, 1.0)])))
    assert ["0", "0..63", "1.00", "2.000", "x", "0.500", "25%"] in rows
    assert ["1", "64", "2.00", "3.000", "x", "1.000", "75%"] in rows


def test_entries_pages_and_slots_of_a_block() -> None:
    reads = [Read([0, 1, 2, 3, 4], [12, 13, 14, 15, 8]), Read([5], [9])]
    rows = words(drawn(page_walk(reads, 4)))
    assert ["0", "0..4", "0,", "1", "3,", "2", "12..15,", "8"] in rows
    assert ["1", "5", "1", "2", "9"] in rows
    rows = words(drawn(page_walk([Read([i], [i]) for i in range(20)], 4, most=4)))
    assert [row[0] for row in rows if len(row) == 5] == ["0", "1", "2", "...", "19"]


def test_lines_of_a_loop_are_shown_once_and_counted() -> None:
    lines = [Line(1, "x = 1", {"x": "1"}), Line(2, "for i in (1, 2):", {"i": "1"}), Line(3, '    # probe("a", x=x)')]
    lines += [
        Line(4, "    x += i  # why", {"x": "2"}),
        Line(2, "for i in (1, 2):", {"i": "2"}),
        Line(4, "    x += i  # why"),
    ]
    text = drawn(kernel_listing(lines))
    assert text.count("x += i") == 1 and "why" not in text and "probe" not in text and text.count("2x") == 2
    assert ["x", "=", "1", "x", "=", "1"] in words(text)


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("plain", [True, False])
def test_they_fit(width: int, plain: bool) -> None:
    lines = [Line(1, "top, total, acc = add_block(scores, v, top, total, acc, PRECISION)", {"top": "f32[16]"})]
    reads = [Read(list(range(16)), [*range(72, 80), *range(8, 16)])]
    for drawing in (
        running_softmax(BLOCKS),
        combined([Split(0, 64, 1.0, 2.0, 0.5)]),
        page_walk(reads, 8),
        kernel_listing(lines),
    ):
        text = drawn(drawing, width, plain)
        assert max(map(len, text.splitlines())) <= width
        assert text.isascii() or not plain


class Kernel:
    """As the interpreter holds one: the plain function is ``fn``."""

    def __init__(self, fn: Any) -> None:
        self.fn = fn


def program(x: int) -> int:
    y = x + 1
    for _ in range(2):
        y *= 2
    return y


def test_lines_of_the_first_call_and_what_they_made() -> None:
    with traced(Kernel(program)) as lines:
        assert [program(1), program(5)] == [8, 24]
    assert [line.text.strip() for line in lines] == [
        "y = x + 1", "for _ in range(2):", "y *= 2", "for _ in range(2):", "y *= 2", "for _ in range(2):", "return y",
    ]  # fmt: skip
    assert lines[0].made == {"y": "2"} and lines[2].made == {"y": "4"} and lines[4].made == {"y": "8"}
    assert program(1) == 8 and len(lines) == 7


def test_who_traces_already_is_left_alone() -> None:
    def tracer(*_arguments: Any) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        with traced(Kernel(program)) as lines:
            program(1)
        assert lines == [] and sys.gettrace() is tracer
    finally:
        sys.settrace(before)
