"""Numbers as a person reads them: three digits that matter, and a unit that fits."""

import math


def number(value: float) -> str:
    """``12,345``, ``3.14``, ``0.00123``; whole numbers whole."""
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e6):
        return f"{int(value):,}"
    return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 1000 else f"{value:.3g}"


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
