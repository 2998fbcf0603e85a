"""A query's context in blocks: scores and values, and the running numbers of a softmax over them."""

import torch
from torch import Tensor

from minillm.debug.views.running_softmax import Block, Split
from minillm.kernels.torch.attention import online_softmax, read_block
from minillm.learn.lessons.lesson_08.query import Query
from minillm.probe import Event, listen, unheard

GROWS = 4  # how often the maximum grows in the head that is shown


def blocks_of(query: Query, size: int) -> list[tuple]:
    """(first position, last, scores ``[Hkv, G, n]``, values ``[Hkv, n, D]``) of each block."""
    pages, page_size = query.batch.page_table[0], query.batch.kv_cache.page_size
    spans = [(first, min(first + size, query.length)) for first in range(0, query.length, size)]
    return [(*span, *read_block(query.heads, query.cache, pages, *span, page_size, query.scale)) for span in spans]


def running(blocks: list[tuple]) -> list[Event]:
    """An event for each block, of `online_softmax` over them all."""
    events: list[Event] = []
    with listen("attention.block", events.append):
        online_softmax((scores, values) for _, _, scores, values in blocks)
    return events


def rows_of(blocks: list[tuple], events: list[Event], head: tuple[int, int]) -> list[Block]:
    """What `running_softmax` draws, of one head."""
    facts = [(event.scores.amax(dim=-1), event.new_top, event.fix, event.total) for event in events]
    return [Block(first, last, *(float(x[head]) for x in numbers)) for (first, last, *_), numbers in zip(blocks, facts)]


def splits_of(event: Event, each: int, length: int, head: tuple[int, int]) -> list[Split]:
    """What `combined` draws, of one head: splits of ``each`` tokens, from an `attention.combine`."""
    facts = (event.tops, event.totals, event.weights)
    return [
        Split(i * each, min((i + 1) * each, length), *(float(x[i][head]) for x in facts))
        for i in range(len(event.tops))
    ]


def growing(query: Query) -> Tensor:
    """How often the maximum of each query head grows, from each 16 tokens to the next: ``[Hkv, G]``."""
    with unheard():  # looking for a head to show is nobody's step
        largest = torch.stack([scores.amax(dim=-1) for _, _, scores, _ in blocks_of(query, 16)])  # [blocks, Hkv, G]
    return (largest.cummax(dim=0).values.diff(dim=0) > 0).sum(dim=0)


def distance(query: Query) -> int:
    """How far the head that suits best is from growing `GROWS` times."""
    return int((growing(query) - GROWS).abs().min())


def head_of(query: Query) -> tuple[int, int]:
    """A head whose maximum grows a few times: its key/value head, and its place among those that share it."""
    return divmod(int((growing(query) - GROWS).abs().argmin()), query.heads.shape[1])


class Seen:
    """What attention told in one step, layer by layer: its reads, its blocks, its splits put together."""

    def __init__(self) -> None:
        self.layer = 0
        self.layers: dict[int, list[Event]] = {}

    def note(self, event: Event) -> None:
        if event.name == "attention.attend":
            self._now = self.layers.setdefault(event.layer, [])
        else:
            self._now.append(event)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.layers[self.layer] if event.name == f"attention.{kind}"]
