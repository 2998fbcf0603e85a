"""What was measured several times: the median, how far the rounds lie apart, and whether two of them differ at all."""

from collections.abc import Sequence
from statistics import median

from minillm.debug.views.units import amount

Rounds = float | Sequence[float] | None  # one number, or one for each time that it was measured

SLIGHT = 1.05  # a ratio of two medians below which nobody should speak of a difference
NOISE = "within noise"


def middle(rounds: Rounds) -> float | None:
    """The median; one number is its own. None if nothing was measured."""
    return (median(rounds) if rounds else None) if isinstance(rounds, Sequence) else rounds


def extent(rounds: Rounds) -> tuple[float, float] | None:
    """The smallest and the largest; None where there is but one number, or all are the same."""
    values = rounds if isinstance(rounds, Sequence) else ()
    return (min(values), max(values)) if values and min(values) < max(values) else None


def spread(rounds: Rounds, unit: str = "", between: str = " ") -> str:
    """``54 ms (51 to 60)``: the median, and what it was at the least and at the most. ``54 ms`` if it never changed.

    between: what stands before the bracket; a line break for a cell of a table with many columns.
    """
    value, ends = middle(rounds), extent(rounds)
    if value is None:
        return "-"
    shown = amount(value, unit)
    if ends is None:
        return shown
    factor = 1000 if unit == "s" and abs(value) < 1 else 1  # the ends in the unit of the median
    low, high = (amount(end * factor) for end in ends) if unit != "B" else (amount(end, unit) for end in ends)
    return shown if low == high else f"{shown}{between}({low} to {high})"


def is_noise(one: Rounds, other: Rounds) -> bool:
    """Whether two things that were measured several times may be the same: their rounds overlap, or nearly meet."""
    a, b = middle(one), middle(other)
    ends = extent(one), extent(other)
    if a is None or b is None or ends == (None, None):
        return False
    (low, high), (least, most) = ends[0] or (a, a), ends[1] or (b, b)
    return (low <= most and least <= high) or (min(a, b) > 0 and max(a, b) / min(a, b) < SLIGHT)


def ratio(value: float) -> str:
    """``2.4x``, ``12.0x``, ``120x``."""
    return f"{value:,.0f}x" if value >= 100 else f"{value:.1f}x" if value >= 1.95 else f"{value:.2f}x"


def as_much(one: Rounds, other: Rounds, word: str = "much") -> str:
    """How much ``one`` is of ``other``, for a sentence: ``2.4 times as much as``, ``40% as much as``, or
    ``as much as (within noise)``. word: "long", of times."""
    a, b = middle(one), middle(other)
    if not a or not b:
        return "not to be compared with"
    if is_noise(one, other):
        return f"as {word} as ({NOISE})"
    return f"{a / b:.0%} as {word} as" if a < b else f"{ratio(a / b).removesuffix('x')} times as {word} as"
