"""Which probes a step passes by, and what is said to whoever listens to one that it does not."""

import warnings
from collections.abc import Sequence

from minillm.debug.views.drawing import Drawing
from minillm.debug.views.table import Cells, Col, drawn, numbers
from minillm.engine.engine import Engine
from minillm.learn.asking import ask, finish
from minillm.probe import Event, listen


def passed_by(
    engines: dict[str, Engine], prompt_ids: list[int], tokens: int, probes: Sequence[str]
) -> tuple[Drawing, list[str]]:
    """The decode steps of one request in each engine: how often each probe came by, as a table; and the warnings."""
    rows: list[Cells] = []
    warned: list[str] = []
    for name, engine in engines.items():
        ask(engine, prompt_ids, tokens)
        engine.step()  # the prompt
        counts = dict.fromkeys(probes, 0)

        def count(event: Event, counts: dict[str, int] = counts) -> None:
            counts[event.name] += 1

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with listen(list(counts), count):
                finish(engine)
        warned += [str(one.message) for one in told]
        rows.append([name, *map(str, counts.values())])
    return drawn([Col("decode steps"), *numbers(*probes)], rows), list(dict.fromkeys(warned))
