"""Views of recorded steps: they show what the tape and the buffers hold, and fit."""

import io

import pytest
import torch
from rich.console import RenderableType
from tiny import Oracle
from workload import make_engine

from minillm import SamplingParams
from minillm.debug.views.replay_rows import replay_rows
from minillm.debug.views.sizes import size_bars
from minillm.debug.views.tape import call_name, launch_table, tape_table
from minillm.debug.views.theme import make_console
from minillm.kernels.torch.kernels import TorchKernels
from minillm.probe import listen
from minillm.worker.capture import TapeRecorder
from minillm.worker.graphs import choose_size


def drawn(view: RenderableType, width: int = 80, plain: bool = True) -> list[str]:
    file = io.StringIO()
    make_console(plain, width, file=file).print(view)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines), lines
    assert not plain or file.getvalue().isascii()
    return lines


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_tape_call_by_call(width: int) -> None:
    x = torch.tensor([1.0, 2.0])
    with torch.inference_mode():
        tape, _ = TapeRecorder(TorchKernels()).record(lambda: (x * 10).add_(1)[0] + 2)
    lines = " ".join(" ".join(drawn(tape_table(tape), width)).split())
    assert [call_name(call[0]) for call in tape.calls] == ["mul", "add", "add"]
    assert "1 mul" in lines and "what it got" in lines and (width < 80 or "[1.0, 2.0], 10" in lines)


def test_launches_are_counted_and_the_rest_is_one_row() -> None:
    lines = drawn(launch_table(["a"] * 5 + ["b"] * 3 + ["c", "d", "e"], most=2))
    assert [line.split()[-1] for line in lines if line and "-" not in line][1:] == ["5", "3", "3", "11"]
    assert any("3 others: c, d, e" in line for line in lines)


def test_sizes_and_their_padding() -> None:
    lines = drawn(size_bars([1, 2, 4, 6], choose_size, 6), 60)
    assert lines[2].startswith("3 rows ******--") and lines[2].endswith("size 4, 1 padding")
    assert lines[5] == "6 rows ************  size 6"
    assert all("size" in line for line in drawn(size_bars([1, 2, 4, 6], choose_size, 6), 40))


@pytest.mark.parametrize("width", [40, 80])
def test_rows_of_a_replay(oracle: Oracle, width: int) -> None:
    engine = make_engine(oracle.folder, num_pages=32, max_model_len=64, max_num_seqs=4, enforce_eager=False)
    for start in (5, 40, 70):
        engine.add_request([start, 6, 7], SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
    engine.step()
    seen: list[list[str]] = []
    with listen(
        "graph.replay",
        lambda event: seen.append(
            drawn(replay_rows(event.graphs, event.count, event.size, engine.scheduler.running), width)
        ),
    ):
        engine.step()
    rows = [line.split() for line in seen[0] if line.strip()[:1].isdigit()]
    assert [row[:4] for row in rows] == [
        ["0", "A", "0", "3"], ["1", "B", "1", "3"], ["2", "C", "2", "3"], ["3", "nobody", "4", "0"],
    ]  # fmt: skip
    assert rows[3][4:] == ["-1", "0"] and [row[5] for row in rows[:3]] == ["4"] * 3
