"""What climbing the ladder came to: a table, and a picture of what each rung brings."""

import math
from collections.abc import Callable
from html import escape

from rich import box
from rich.table import Table
from rich.text import Text

from minillm.bench.climb import Climbed
from minillm.debug.views.theme import GREEN, STYLES, VERMILLION, make_console
from minillm.debug.views.units import amount

SAME = 0.1  # what differs by less is as good as the same, on a machine that does other things too


def print_ladder(results: list[Climbed], title: str) -> None:
    """A row a rung; below, what speed does not tell, and what this machine cannot do."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("rung, what it turns on", no_wrap=True)
    for name in ("tok/s", "factor to\nbefore", "factor to\nfirst", "first\ntoken", "between,\np99"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in results:
        rung = Text.assemble(one.name, "\n  ", (one.turned_on, STYLES["note"]))
        table.add_row(rung, *(["-"] * 5 if one.skipped else figures(one)), style="note" if one.skipped else "")
    console = make_console()
    console.print(table)
    console.print(
        "First token: the middle request's, all of them there from the beginning. Between, p99: 99 of a hundred gaps "
        "between two tokens are shorter."
    )
    for one in results:
        if one.skipped:
            console.print(f"{one.name}: left out, {one.skipped}")
        elif one.brings:
            console.print(f"{one.name}: {one.brings}")
        if not one.skipped and one.same_tokens < 1:
            console.print(f"{one.name}: {one.same_tokens:.1%} of its tokens are those of the first rung")


def figures(one: Climbed) -> list[str]:
    times = (amount(ms / 1e3, "s") for ms in (one.ttft_ms, one.itl_p99_ms))
    return [f"{one.tokens_per_s:,.0f}", factor(one.before), factor(one.first), *times]


def factor(value: float) -> str:
    """``2.1x``; three digits at most."""
    return f"{value:.2f}x" if value < 10 else f"{value:.1f}x" if value < 100 else f"{value:,.0f}x"


WIDTH, LEFT, RIGHT, TOP, ROW = 760, 250, 590, 92, 44
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
GREY = "#5A6672"


def ladder_svg(results: list[Climbed], title: str) -> str:
    """A bar a rung, from the speed below it to its own. On this scale equal lengths are equal factors."""
    measured = [one for one in results if not one.skipped]
    low, high = decades([one.tokens_per_s for one in measured])
    bottom = TOP + ROW * len(results)
    height = bottom + 78

    def x(speed: float) -> float:
        return LEFT + (math.log10(speed) - low) / (high - low) * (RIGHT - LEFT)

    parts = [*frame(title, measured, height), *grid(low, high, bottom, x)]
    before: Climbed | None = None
    for i, one in enumerate(results):
        y = TOP + ROW * i + ROW / 2
        parts.append(f'<text x="24" y="{y - 2:.0f}"{muted(one)}>{escape(one.name)}</text>')
        parts.append(f'<text x="24" y="{y + 14:.0f}" class="m">{escape(shortened(one.turned_on))}</text>')
        if one.skipped:
            parts.append(f'<text x="{LEFT + 8}" y="{y + 5:.0f}" class="g">not on this machine</text>')
            continue
        parts += bar(one, before, y, x)
        before = one
    return "\n".join([*parts, *key(height), "</svg>"]) + "\n"


def decades(speeds: list[float]) -> tuple[int, int]:
    """The powers of ten below and above: 42 to 3,100 is 1 to 4."""
    if not speeds:
        return 0, 1
    low, high = math.floor(math.log10(min(speeds))), math.ceil(math.log10(max(speeds)))
    return low, max(high, low + 1)


def frame(title: str, measured: list[Climbed], height: float) -> list[str]:
    """The ground, light in a dark page too, the title, and what a reader who sees no picture hears."""
    heard = "; ".join(f"{one.name} {one.tokens_per_s:,.0f}" for one in measured)
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-labelledby="t d">',
        '<title id="t">The ladder: tokens a second as the switches go on</title>',
        f'<desc id="d">Tokens a second, rung by rung: {escape(heard)}.</desc>',
        f"<style>text{{font-family:{FONT};font-size:15px;fill:#1F2933}}.g{{fill:{GREY}}}.b{{font-weight:700}}"
        f".m{{font-family:{MONO};font-size:12px;fill:{GREY}}}</style>",
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="14" fill="#FCFCFA" stroke="#D8DDE2"/>',
        '<text x="24" y="34" class="b">Tokens a second, as the switches go on</text>',
        f'<text x="24" y="56" class="g">{escape(title)}</text>',
        f'<text x="{RIGHT + 66}" y="{TOP - 8}" text-anchor="end" class="g">tokens/s</text>',
        f'<text x="{WIDTH - 24}" y="{TOP - 8}" text-anchor="end" class="g">factor</text>',
    ]


def grid(low: int, high: int, bottom: float, x: Callable[[float], float]) -> list[str]:
    """A line for each power of ten."""
    parts = []
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<path d="M{at:.1f} {TOP}V{bottom}" stroke="#D8DDE2"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 20}" text-anchor="middle" class="g">{10**power:,}</text>')
    return parts


def bar(one: Climbed, before: Climbed | None, y: float, x: Callable[[float], float]) -> list[str]:
    """From the speed of the rung below to this one's, with the factor in words: nothing hangs on colour alone."""
    here, start = x(one.tokens_per_s), x(before.tokens_per_s) if before else LEFT
    colour = GREY if before is None or abs(one.before - 1) < SAME else GREEN if one.before > 1 else VERMILLION
    parts = []
    if before is not None:  # the riser from the rung below
        parts.append(f'<path d="M{start:.1f} {y - ROW + 9:.0f}V{y + 9:.0f}" stroke="{GREY}" stroke-dasharray="2 3"/>')
        parts.append(
            f'<rect x="{min(start, here):.1f}" y="{y - 9:.0f}" width="{max(abs(here - start), 3):.1f}" height="18" '
            f'rx="2" fill="{colour}"/>'
        )
    else:
        parts.append(f'<circle cx="{here:.1f}" cy="{y:.0f}" r="6" fill="{colour}"/>')
    says = factor(one.before).replace("x", "×") if before else ""
    parts.append(f'<text x="{RIGHT + 66}" y="{y + 5:.0f}" text-anchor="end">{one.tokens_per_s:,.0f}</text>')
    parts.append(f'<text x="{WIDTH - 24}" y="{y + 5:.0f}" text-anchor="end" class="b">{says}</text>')
    return parts


def key(height: float) -> list[str]:
    """What colours and lengths mean."""
    parts, at = [], 24
    for colour, says in ((GREEN, "faster than the one before"), (VERMILLION, "slower"), (GREY, "about the same")):
        parts.append(f'<rect x="{at}" y="{height - 31}" width="14" height="14" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{at + 20}" y="{height - 19}" class="g">{says}</text>')
        at += 42 + 8 * len(says)
    parts.append(
        f'<text x="{WIDTH - 24}" y="{height - 19}" text-anchor="end" class="g">equal lengths, equal factors</text>'
    )
    return parts


def muted(one: Climbed) -> str:
    return ' class="g"' if one.skipped else ""


def shortened(text: str, most: int = 29) -> str:
    """As much as fits beside the bars."""
    return text if len(text) <= most else text[: most - 3] + "..."
