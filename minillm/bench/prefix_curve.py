"""The radix tree alone, without a model: what a token costs to insert, to find and to evict, as the tree grows.

What is timed is the processor's time of this process: a shared machine's clock counts the others' work too.
"""

import gc
import random
import time
from dataclasses import dataclass
from typing import Any

from minillm.bench.checkpoints import say
from minillm.kvcache.pages import PagePool, pages_for
from minillm.kvcache.radix import RadixCache

SIZES = (10_000, 100_000, 300_000, 1_000_000)  # tokens in the tree
LONG = 100_000  # tokens of the prompt that is looked up
MANY = 6250  # nodes that it is cut into, for the worst case
SHARED, OWN = 512, 512  # each request's beginning, of one of some system prompts, and what is its own


@dataclass
class CurvePoint:
    """A tree of so many tokens. Insert and evict: nanoseconds a token. Match: milliseconds for the long prompt, which
    lies in one node or in thousands."""

    tokens: int
    page_size: int
    nodes: int
    insert_ns: float
    evict_ns: float
    match_ms: float
    match_many_nodes_ms: float


def measure_curve(page_size: int, sizes: tuple[int, ...] = SIZES, repeats: int = 3) -> list[CurvePoint]:
    """Every size several times; the best of each figure."""
    points = []
    for size in sizes:
        tries = [measure_point(size, page_size) for _ in range(repeats)]
        best = {name: min(getattr(one, name) for one in tries) for name in CurvePoint.__annotations__}
        points.append(CurvePoint(**best))
        say(f"tree of {size:,} tokens, pages of {page_size}: done")
    return points


def measure_point(size: int, page_size: int) -> CurvePoint:
    """Fill a tree as requests do that come one after the other; evict it all; fill it again, and look things up."""
    draw = random.Random(0)
    pool = PagePool(pages_for(size + SHARED + OWN, page_size) + pages_for(LONG, page_size), page_size)
    cache = RadixCache(pool)
    texts = _texts(draw, size)
    gc.collect()
    gc.freeze()  # the texts are not searched for garbage again and again while the tree is timed
    start = time.process_time()
    for text in texts:
        _serve(cache, text)
    inserted = time.process_time() - start
    held, nodes = pool.num_used, sum(1 for _ in cache.nodes())
    start = time.process_time()
    evicted = cache.evict(held)
    seconds = time.process_time() - start
    assert evicted == held
    for text in texts:
        _serve(cache, text)
    long = [draw.randrange(1 << 16) for _ in range(LONG)]
    _serve(cache, long)
    one_node = _seconds_to_match(cache, long)
    _cut_up(cache, long)
    many_nodes = _seconds_to_match(cache, long)
    gc.unfreeze()
    return CurvePoint(
        size, page_size, nodes, inserted / (held * page_size) * 1e9, seconds / (held * page_size) * 1e9,
        one_node * 1e3, many_nodes * 1e3,
    )  # fmt: skip


def _seconds_to_match(cache: RadixCache, token_ids: list[int]) -> float:
    """The best of some: the first one also brings tree and text into the processor's cache."""
    times = []
    for _ in range(5):
        start = time.process_time()
        found = cache.match(token_ids)
        times.append(time.process_time() - start)
        assert len(found.pages) == len(token_ids) // cache.page_size
    return min(times)


def _cut_up(cache: RadixCache, token_ids: list[int]) -> None:
    """Cut the node of this text into many, as other requests do that leave it at many places."""
    node, pages = cache.match(token_ids).node, len(token_ids) // cache.page_size
    each = max(pages // MANY, 1)
    while len(node.pages) > each:
        cache.split(node, each)


def _texts(draw: random.Random, size: int) -> list[list[int]]:
    systems = [[draw.randrange(1 << 16) for _ in range(SHARED)] for _ in range(max(size // 50_000, 1))]
    count = (size - len(systems) * SHARED) // OWN
    return [systems[i % len(systems)] + [draw.randrange(1 << 16) for _ in range(OWN)] for i in range(count)]


def _serve(cache: RadixCache, token_ids: list[int]) -> None:
    """What a request does with the tree and the pool, from its admission to its end; nothing is computed."""
    found = cache.match(token_ids)
    cache.lock(found.node)
    cache.pool.share(found.pages)
    full = len(token_ids) // cache.page_size
    new = cache.pool.allocate(full - len(found.pages))
    first = len(found.pages) * cache.page_size
    node, _ = cache.insert(found.node, token_ids[first : full * cache.page_size], new) if new else (found.node, 0)
    cache.unlock(node)
    cache.pool.free([*found.pages, *new])


def as_rows(points: list[CurvePoint]) -> list[dict[str, Any]]:
    return [{name: getattr(point, name) for name in CurvePoint.__annotations__} for point in points]
