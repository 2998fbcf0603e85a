"""The quiz of lesson 08, where attention goes block by block: when it asks, and where it reads the answers."""

from minillm.attention.blockwise import BLOCK, BLOCKS_A_SPLIT
from minillm.learn.moments import Facts
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler


def _one(event: Event, layer: int) -> bool:
    """Whether one request decodes in this layer, over more than one split of the blockwise backend."""
    batch = event.batch
    alone = batch.num_single == batch.num_requests == 1 and event.layer == layer
    return alone and batch.backend.name == "blockwise" and batch.context_lens[0] > BLOCK * BLOCKS_A_SPLIT


def one_query_looks_back(event: Event, _scheduler: Scheduler) -> Facts | None:
    return {"heads": event.q.shape[1], "kv_heads": event.k.shape[1]} if _one(event, 0) else None


def pages_to_walk(event: Event, _scheduler: Scheduler) -> Facts | None:
    if not _one(event, 1):
        return None
    batch, size = event.batch, event.batch.kv_cache.page_size
    position = batch.context_lens[0] - 1
    pages = batch.page_table[0, : position // size + 1].tolist()
    facts = {"length": position + 1, "page_size": size, "position": position, "entry": position // size}
    return {**facts, "pages": pages}


def splits_to_come(event: Event, _scheduler: Scheduler) -> Facts | None:
    facts = {"blocks": BLOCKS_A_SPLIT, "block": BLOCK, "each": BLOCK * BLOCKS_A_SPLIT}
    return {"length": event.batch.context_lens[0], **facts} if _one(event, 2) else None


def sums_to_come(event: Event, _scheduler: Scheduler) -> Facts | None:
    return {"length": event.batch.context_lens[0]} if _one(event, 3) else None


# How the answers are read.


def queries_a_key(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.scores.shape[1]


def page_read_last(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    """Once the block with the last position is read."""
    ends = int(event.positions[-1]) == facts["position"]
    return int(event.slots[-1]) // facts["page_size"] if ends else None


def splits_combined(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return len(event.tops)


def a_sum_below_one(_facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return bool((event.totals < 0.5).any())
