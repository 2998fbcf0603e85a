"""Checks that settings of all kinds share: ValueError names what was given, and what it must be."""

import math
from typing import Any


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def one_of(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, choices))}")


def at_least(name: str, value: Any, least: int, meaning: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{name} is {value!r}; it must be a whole number of at least {least}{': ' + meaning if meaning else ''}"
        )
