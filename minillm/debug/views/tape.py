"""A recorded step: which calls it makes, and how often."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from minillm.debug.views.drawing import Canvas, Drawing
from minillm.debug.views.table import Cells, Col, drawn, table
from minillm.debug.views.units import number

if TYPE_CHECKING:
    from torch import Tensor

    from minillm.worker.capture import Tape


def call_name(function: Any) -> str:
    """``index_select`` for torch's operator of that name, ``rms_norm`` for our compiled ``rms_norm_float32``."""
    name = getattr(function, "_schema", None)
    own = name.name.rpartition("::")[2] if name is not None else function.__name__
    for suffix in ("_float32", "_bfloat16"):
        own = own.removesuffix(suffix)
    return own.strip("_")


def launch_table(names: Sequence[str], most: int = 8) -> Drawing:
    """The calls of a step by name, those that come most often first; what is left over ``most`` is one row."""
    counts = Counter(names).most_common()
    shown, rest = counts[:most], counts[most:]
    rows: list[Cells] = [[name, number(count)] for name, count in shown]
    if rest:
        others = ", ".join(name for name, _ in rest[:4])
        rows.append([f"{len(rest)} others: {others}, ...", number(sum(count for _, count in rest))])
    rows.append([Text("all", "bold"), Text(number(len(names)), "bold")])
    columns = [Col("what is launched", wraps=True), Col("times", "right")]
    return drawn(columns, rows)


def tape_table(tape: "Tape") -> Drawing:
    """Each call of a short tape: the operator, what it got, and what it makes new."""
    facts = [
        (call_name(function), [_short(one) for one in args], [_short(one) for one in outs])
        for function, args, _kwargs, outs in tape.calls
    ]

    def draw(canvas: Canvas) -> Any:
        columns = [Col("call", "right"), Col("operator"), Col("got", wraps=True), Col("writes into", wraps=True)]
        rows: list[Cells] = [
            [str(i), name, ", ".join(given), ", ".join(into) or "what it got"]
            for i, (name, given, into) in enumerate(facts, 1)
        ]
        return table(canvas, columns, rows)

    return Drawing(draw)


def _short(one: Any) -> str:
    """A tensor by its numbers, as it was when this was drawn; anything else as Python says it."""
    if not hasattr(one, "untyped_storage"):
        return repr(one)
    tensor: Tensor = one
    return str([round(value, 3) for value in tensor.flatten().tolist()[:4]])
