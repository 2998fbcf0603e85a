"""What the prefix cache's measurements came to: tables, and the curve as a picture."""

import math

from rich import box
from rich.table import Table

from minillm.bench.prefix import PrefixComparison
from minillm.bench.prefix_curve import LONG, CurvePoint
from minillm.debug.views.theme import BLUE, GREEN, ORANGE, make_console
from minillm.debug.views.units import amount


def print_prefix(results: list[PrefixComparison]) -> None:
    """Two rows a workload: without the cache, and with it."""
    table = _table("workload", "cache", "computed", "hits", "first", "time", "ratio", "median", "cost")
    for result in results:
        for cache, side in (("none", result.none), ("radix", result.radix)):
            last = cache == "radix"
            table.add_row(
                "" if last else result.workload.name, cache, f"{side.prefill:,}", f"{side.hit_rate:.0%}",
                amount(side.first_token_s, "s"), amount(side.best_s, "s"),
                f"{result.ratio:.2f}x" if last else "", f"{result.median_ratio:.2f}x" if last else "",
                f"{result.cost:.2%}" if last else "", end_section=last,
            )  # fmt: skip
    console = make_console()
    console.print(table)
    console.print(
        "Computed: prompt tokens. First: time to first token, the middle request's. Time is the best round's, median "
        "the ratio of the middle rounds. Cost: the share of the time that the cache's own functions take."
    )
    for result in results:
        if not result.same_tokens:
            console.print(f"{result.workload.name}: both should give the same tokens, and do not")


def print_curve(points: list[CurvePoint]) -> None:
    table = _table("tree, tokens", "page", "nodes", "insert", "evict", "match", "match, many nodes")
    for point in points:
        table.add_row(
            f"{point.tokens:,}", str(point.page_size), f"{point.nodes:,}", f"{point.insert_ns:.0f} ns",
            f"{point.evict_ns:.0f} ns", f"{point.match_ms:.2f} ms", f"{point.match_many_nodes_ms:.1f} ms",
        )  # fmt: skip
    console = make_console()
    console.print(table)
    console.print(f"Insert and evict: time a token, with all that the pool does. Match: a prompt of {LONG:,} tokens.")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name in ("workload", "cache") else "right", no_wrap=True)
    return table


WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 600, 330, 70, 270, 60
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"


def curve_svg(points: list[CurvePoint]) -> str:
    """Time a token over the size of the tree: level lines are what linear cost looks like."""
    series = [
        ("insert", BLUE, [point.insert_ns for point in points]),
        ("evict", ORANGE, [point.evict_ns for point in points]),
        ("match", GREEN, [point.match_ms * 1e6 / LONG for point in points]),
    ]
    sizes = [point.tokens for point in points]
    top = _round_up(max(value for _, _, values in series for value in values))

    def x(size: float) -> float:
        low, high = math.log(sizes[0]), math.log(sizes[-1])
        return LEFT + (math.log(size) - low) / max(high - low, 1e-9) * (WIDTH - LEFT - 110)

    def y(value: float) -> float:
        return BOTTOM - value / top * (BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-labelledby="t d">',
        '<title id="t">The cost of a token in the radix tree</title>',
        '<desc id="d">Nanoseconds a token to insert, match and evict, in trees of '
        f"{sizes[0]:,} to {sizes[-1]:,} tokens: the lines stay level.</desc>",
        f"<style>text{{font-family:{FONT};font-size:15px;fill:#1F2933}}.g{{fill:#5A6672}}.b{{font-weight:700}}</style>",
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="14" fill="#FCFCFA" stroke="#D8DDE2"/>',
        f'<text x="24" y="34" class="b">Nanoseconds a token, pages of {points[0].page_size}</text>',
    ]
    for i in range(5):
        value = top * i / 4
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - 100}" stroke="#E4E8EC"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 5:.1f}" text-anchor="end" class="g">{value:g}</text>')
    for size in sizes:
        text = f"{size // 1000:,}k" if size < 1_000_000 else f"{size / 1e6:g}M"
        parts.append(f'<text x="{x(size):.1f}" y="{BOTTOM + 24}" text-anchor="middle" class="g">{text}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 14}" class="g">tokens in the tree</text>')
    for name, colour, values in series:
        line = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in zip(sizes, values, strict=True))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        parts += [
            f'<circle cx="{x(size):.1f}" cy="{y(value):.1f}" r="4" fill="{colour}"/>'
            for size, value in zip(sizes, values, strict=True)
        ]
        parts.append(f'<text x="{x(sizes[-1]) + 12:.1f}" y="{y(values[-1]) + 5:.1f}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 8, 10 ... 80, 100 ..."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(digit * power for digit in (1, 2, 4, 5, 8, 10) if digit * power >= value)
