"""When the quiz asks, where attention goes through pages block by block (lesson 08): as in `minillm.learn.moments`."""

from minillm.attention.blockwise import BLOCK, BLOCKS_A_SPLIT
from minillm.learn.questions import Facts
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
