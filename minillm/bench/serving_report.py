"""Latency and the host's time, as tables."""

from rich import box
from rich.table import Table

from minillm.bench.host import DEVICE, PARTS, HostTime
from minillm.bench.latency import SHARES, Latency
from minillm.debug.views.theme import make_console
from minillm.debug.views.units import number


def print_latency(results: list[Latency], title: str) -> None:
    """Three rows a prompt length and load: to the first token, between tokens, and to the last."""
    table = _table(title, "prompt", "load", "requests", "tok/s", "ms", *(f"p{share * 100:.0f}" for share in SHARES))
    for one in results:
        first = f"{one.prompt_len:,}", str(one.load), f"{one.requests:,}", f"{one.tokens_per_s:,.0f}"
        table.add_row(*first, "first token", *map(number, one.ttft_ms))
        table.add_row("", "", "", "", "between", *map(number, one.itl_ms))
        table.add_row("", "", "", "", "total", *map(number, one.total_ms), end_section=True)
    console = make_console()
    console.print(table)
    console.print(
        f"Milliseconds; p90: 90 of a hundred stay below. Answers have {results[0].output_len:,} tokens. A request's "
        "time begins when it comes, so waiting for its turn is in it."
    )


def print_host(results: list[HostTime], title: str) -> None:
    """A row a number of requests; microseconds."""
    table = _table(title, "requests", *PARTS, "host", DEVICE, "step", "most tok/s")
    for one in results:
        times = (*(getattr(one, part) for part in PARTS), one.host, one.device, one.step)
        most = one.requests / one.host * 1e6
        table.add_row(f"{one.requests:,}", *(f"{value:,.0f}" for value in times), f"{most:,.0f}")
    console = make_console()
    console.print(table)
    console.print(
        "Microseconds of a decode step, each the middle one of its steps. Host: what Python and launching take, all "
        "columns before it. Device: waiting for the GPU, or on a CPU what it computes itself. Most tok/s: what the "
        "host would let through if the device took no time."
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table
