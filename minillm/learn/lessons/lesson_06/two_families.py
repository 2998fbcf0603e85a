"""A queue of two families of prompts, and what a policy makes of it."""

from dataclasses import dataclass, field
from typing import Any

from minillm.debug.views.drawing import Drawing
from minillm.debug.views.table import Cells, Col, drawn, numbers
from minillm.debug.views.theme import letter
from minillm.engine.engine import Engine
from minillm.kvcache.pages import pages_for
from minillm.learn.asking import ask, finish
from minillm.learn.example import CODE, OTHER_ENDING, QUESTION, TALK, conversation
from minillm.probe import Event, listen
from minillm.text.tokenizer import Tokenizer


@dataclass
class Admitted:
    """Who was admitted in which order, and how many tokens were found in the tree, and had to be computed."""

    order: list[int] = field(default_factory=list)
    computed: int = 0
    found: int = 0

    @property
    def hit_rate(self) -> float:
        return self.found / (self.found + self.computed)

    def note(self, event: Event) -> None:
        self.order.append(event.request.id)
        self.found += event.request.num_computed
        self.computed += event.request.num_pending


def queue(tokenizer: Tokenizer) -> list[list[int]]:
    """Two long talks in turn, each with three different last questions."""
    talks = (TALK, TALK[::-1])
    return [conversation(tokenizer, talk, last) for last in (QUESTION, OTHER_ENDING, CODE) for talk in talks]


def room_for_one(prompts: list[list[int]], page_size: int) -> dict[str, Any]:
    """Settings: a cache that holds one family, and one request at a time."""
    pages = pages_for(max(map(len, prompts)), page_size) + 8
    return {"prefix_cache": "radix", "page_size": page_size, "num_pages": pages, "max_num_seqs": 1}


def in_a_table(served: dict[str, Admitted]) -> Drawing:
    """A row a policy."""
    rows: list[Cells] = [
        [policy, " ".join(map(letter, one.order)), f"{one.computed:,}", f"{one.hit_rate:.0%}"]
        for policy, one in served.items()
    ]
    columns = [Col("policy"), Col("admitted in this order"), *numbers("tokens computed", "hit rate")]
    return drawn(columns, rows)


def serve(engine: Engine, prompts: list[list[int]]) -> Admitted:
    """All wait when the first step begins."""
    for prompt_ids in prompts:
        ask(engine, prompt_ids, 2)
    served = Admitted()
    with listen("scheduler.admit", served.note):
        finish(engine)
    return served
