"""What is worth seeing at a stop, as the catalogue has it: expressions to watch, and what must be true, tried there."""

from typing import Any

from minillm.debug.catalogue import catalogue
from minillm.debug.short import short


def looked(probe: str, names: dict[str, Any]) -> list[str]:
    """A line each, with the values that the expressions have among ``names``, those of the stopped frame."""
    info = catalogue()[probe]
    lines = [f"   {expression} = {_try(expression, names)}   ({meaning})" for expression, meaning in info.watch.items()]
    for expression, meaning in info.must.items():
        value = _try(expression, names)
        lines.append(f" {'✓' if value == 'True' else '✗'} {meaning}: {expression} is {value}")
    return lines


def _try(expression: str, names: dict[str, Any]) -> str:
    try:
        return short(eval(expression, names))  # one dictionary: what is in a comprehension looks among globals only
    except Exception as error:  # one has moved on, to where those names mean nothing
        return f"{type(error).__name__}: {error}"
