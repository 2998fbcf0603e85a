"""An answer that a grammar watches over: how many tokens it allowed each time."""

from typing import Any

from minillm.debug.views.controls import Choice
from minillm.engine.engine import Engine
from minillm.learn.asking import answered
from minillm.probe import Event, listen
from minillm.request import Request
from minillm.sampling_params import StructuredOutputsParams


def watched(engine: Engine, prompt_ids: list[int], schema: dict[str, Any]) -> tuple[Request, list[Choice]]:
    """The greedy answer that is JSON of this schema; for each of its tokens from how many it was chosen."""
    counts: list[int] = []

    def note(event: Event) -> None:
        counts.append(sum((int(word) & 0xFFFFFFFF).bit_count() for word in event.mask))

    with listen("request.grammar", note):
        grammar = StructuredOutputsParams(json=schema)
        request = answered(engine, prompt_ids, 120, ignore_eos=False, structured_outputs=grammar)
    token = engine.tokenizer.token
    return request, [Choice(count, token(id)) for count, id in zip(counts, request.output_ids)]
