"""Numbers as a person reads them: three digits that matter, and a unit that fits."""

import math
from collections.abc import Sequence


def number(value: float) -> str:
    """``12,345``, ``3.14``, ``0.00123``; whole numbers whole."""
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e6):
        return f"{int(value):,}"
    return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 999.5 else f"{value:.3g}"


def amount(value: float, unit: str = "") -> str:
    """A number with its unit. ``"s"`` turns into ms below one second, ``"B"`` into KiB, MiB and GiB."""
    if unit == "s" and abs(value) < 1:
        return f"{number(value * 1000)} ms"
    if unit == "B":
        power = min(int(math.log(abs(value), 1024)), 4) if abs(value) >= 1024 else 0
        value, unit = (value / 1024**power, ("B", "KiB", "MiB", "GiB", "TiB")[power])
    return f"{number(value)} {unit}" if unit and unit not in "%x" else f"{number(value)}{unit}"


def percent(part: float, whole: float) -> str:
    """``37%``; a little is ``<1%`` and never ``0%``."""
    share = 100 * part / whole if whole else 0.0
    return "<1%" if 0 < share < 1 else f"{share:.0f}%"


def counted(count: int, noun: str) -> str:
    """``1 page``, ``2 pages``."""
    return f"{number(count)} {noun}" if count == 1 else f"{number(count)} {noun}s"


def ranges(numbers: Sequence[int], most: int = 8) -> str:
    """Numbers in their order, those that follow each other as one: ``3..5, 9``. Beyond ``most`` parts: ``...``."""
    parts: list[list[int]] = []
    for value in numbers:
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    shown = [f"{part[0]}..{part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts[:most]]
    return ", ".join([*shown, *(["..."] if len(parts) > most else [])])
