"""Results for people, as a table, and for programs, as the last line of stdout and maybe a file."""

import json
import platform
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from minillm.bench.cpu import Comparison
from minillm.bench.throughput import Throughput
from minillm.debug.device_speed import name_of
from minillm.debug.views.theme import make_console


def print_comparisons(results: list[Comparison]) -> None:
    """Two rows a workload: this engine, and the one it is compared with."""
    processor, threads = name_of(torch.device("cpu")), torch.get_num_threads()
    title = f"{processor}, {threads} threads; memory is read at {memory_speed():.0f} GB/s"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("workload", "engine"):
        table.add_column(name, no_wrap=True)
    for name in ("tok/s", "ratio", "median", "step ms", "GB/s", "agree"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        for engine, side in (("minillm", result.minillm), ("transformers", result.transformers)):
            first = engine == "minillm"
            table.add_row(
                result.workload.name if first else f"  {result.workload.dtype}",
                engine,
                f"{side.tokens_per_s:,.1f}",
                f"{result.ratio:.2f}x" if first else "",
                f"{result.median_ratio:.2f}x" if first else "",
                f"{side.step_ms:.2f}",
                f"{side.weight_gb_per_s:.1f}",
                f"{result.same_tokens:.1%}" if first else "",
                end_section=not first,
            )
    console = make_console()
    console.print(table)
    console.print(
        "Speed is the best round's; median is the ratio of the middle rounds. A step makes one token for every "
        "request; GB/s are the weights that it reads, by its time; agree is the share of tokens that are the same."
    )
    for result in results:
        if result.workload.dtype == "float32" and result.same_tokens < 1:
            console.print(f"{result.workload.name}: in float32 the two should agree on every token, and do not")


def print_throughput(results: list[Throughput]) -> None:
    """A row a workload, and one for another engine on the same."""
    table = Table(title=results[0].device, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("workload", "model"):
        table.add_column(name, no_wrap=True)
    peers = any(one.peer for one in results)
    for name in (
        "tok/s",
        "ratio" if peers else "steps",
        "step\nms",
        "first\ntoken ms",
        "between\nms",
        "GB/s",
        "of\ncopy",
    ):
        table.add_column(name, justify="right")
    for one in results:
        table.add_row(
            one.traffic, one.model, f"{one.tokens_per_s:,.0f}", f"{one.ratio:.2f}x" if one.ratio else f"{one.steps:,}",
            f"{one.step_ms:.2f}", f"{one.ttft_ms[0]:,.0f}\n({one.ttft_ms[1]:,.0f})",
            f"{one.itl_ms[0]:.2f}\n({one.itl_ms[1]:.2f})", f"{one.gb_per_s:,.0f}", f"{one.of_copy:.0%}",
        )  # fmt: skip
        if one.peer:
            table.add_row("", f"{one.peer.name} {one.peer.version}", f"{one.peer.tokens_per_s:,.0f}")
    console = make_console()
    console.print(table)
    console.print(
        "The best round. Times are the middle one and, in brackets, the 99th of a hundred. GB/s: the weights once a "
        "step and all live keys and values once a decode step, by the whole time; of copy: against copying a large "
        f"tensor, which moves {results[0].copy_gb_per_s:,.0f} GB/s here."
    )
    if peers:
        console.print("Ratio: ours to theirs, best rounds of both. The two ran one after the other.")


def print_json(results: dict[str, Any], file: Path | None) -> None:
    """One line on stdout, the same in ``file`` if there is one."""
    line = json.dumps({**environment(), **results})
    if file:
        file.write_text(line + "\n", encoding="utf-8")
    print(line, flush=True)


def environment() -> dict[str, Any]:
    """What the numbers depend on."""
    import transformers

    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cpu": name_of(torch.device("cpu")),
        "memory_gb_per_s": round(memory_speed(), 1),
    }


@cache
def memory_speed() -> float:
    """GB/s at which this machine reads memory: the best of some sums over a tensor that no cache holds."""
    data, best = torch.ones(2**26), float("inf")  # 256 MB
    for _ in range(5):
        start = time.perf_counter()
        data.sum()
        best = min(best, time.perf_counter() - start)
    return data.nbytes / best / 1e9
