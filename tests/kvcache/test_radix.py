"""The radix tree. Oracle: a plain dict from every page-aligned beginning to the page that holds its last tokens."""

import random

import pytest

from minillm.kvcache.pages import PagePool
from minillm.kvcache.radix import Node, RadixCache


def make_cache(num_pages: int = 64, page_size: int = 2) -> RadixCache:
    return RadixCache(PagePool(num_pages, page_size))


class Holder:
    """What a request does with the cache: look up, compute the rest, make it shareable, leave."""

    def __init__(self, cache: RadixCache, token_ids: list[int], namespace: object = None) -> None:
        self.cache, self.token_ids, self.namespace = cache, token_ids, namespace
        found = cache.match(token_ids, namespace)
        cache.lock(found.node)
        cache.pool.share(found.pages)
        self.pages, self.node, self.hit = list(found.pages), found.node, len(found.pages)
        self.shareable = self.hit
        self.grow([])

    def grow(self, more: list[int]) -> None:
        self.token_ids = self.token_ids + more
        S, known = self.cache.page_size, len(self.pages)
        full = len(self.token_ids) // S
        new = self.cache.pool.allocate(full - known)
        self.pages += new
        if new:
            start = self.shareable * S
            pages = self.pages[self.shareable : full]
            self.node, taken = self.cache.insert(self.node, self.token_ids[start : full * S], pages, self.namespace)
            self.shareable += taken

    def leave(self) -> None:
        self.cache.unlock(self.node)
        self.cache.pool.free(self.pages)


def check(cache: RadixCache, *holders: Holder) -> None:
    in_tree = cache.check([holder.node for holder in holders])
    cache.pool.check([*(holder.pages for holder in holders), in_tree])


def runs(node: Node) -> list[list[int]]:
    """The token runs below a node, depth first."""
    return [run for child in node.children.values() for run in (child.token_ids, *runs(child))]


def test_an_empty_tree_knows_nothing() -> None:
    cache = make_cache()
    assert cache.match([1, 2, 3, 4]).pages == []
    assert cache.num_evictable == 0 and cache.evict(3) == 0


def test_a_second_request_finds_the_first_ones_pages() -> None:
    cache = make_cache()
    first = Holder(cache, [1, 2, 3, 4, 5, 6])
    second = Holder(cache, [1, 2, 3, 4, 5, 6, 7])
    assert second.hit == 3 and second.pages == first.pages
    assert [cache.pool.references[page] for page in first.pages] == [3, 3, 3]  # two requests and the tree
    check(cache, first, second)


def test_only_whole_pages_match() -> None:
    cache = make_cache(page_size=4)
    Holder(cache, list(range(10)))  # two full pages; the rest is not in the tree
    assert [cache.peek(list(range(n))) for n in (3, 4, 7, 8, 10, 12)] == [0, 1, 1, 2, 2, 2]


def test_a_node_splits_where_two_part() -> None:
    cache = make_cache()
    first = Holder(cache, [1, 2, 3, 4, 5, 6])
    second = Holder(cache, [1, 2, 3, 4, 9, 9])
    assert second.hit == 2
    assert runs(cache.root) == [[1, 2, 3, 4], [5, 6], [9, 9]]
    upper = cache.root.children[(None, 1, 2)]
    assert upper.locks == 2 and [child.locks for child in upper.children.values()] == [1, 1]
    check(cache, first, second)


def test_parting_inside_a_page_shares_nothing_of_it() -> None:
    cache = make_cache(page_size=4)
    first = Holder(cache, [1, 2, 3, 4, 5, 6, 7, 8])
    second = Holder(cache, [1, 2, 3, 4, 5, 6, 0, 0])
    assert second.hit == 1 and runs(cache.root) == [[1, 2, 3, 4], [5, 6, 7, 8], [5, 6, 0, 0]]
    check(cache, first, second)


def test_a_request_alone_on_its_leaf_lengthens_it() -> None:
    cache = make_cache()
    holder = Holder(cache, [1, 2])
    for token in range(3, 9):
        holder.grow([token])
    assert runs(cache.root) == [[1, 2, 3, 4, 5, 6, 7, 8]]
    check(cache, holder)


def test_two_on_one_leaf_grow_apart_below_it() -> None:
    cache = make_cache()
    first, second = Holder(cache, [1, 2]), Holder(cache, [1, 2])
    assert first.node is second.node
    first.grow([3, 4])
    second.grow([5, 6])
    assert runs(cache.root) == [[1, 2], [3, 4], [5, 6]]
    first.leave()
    check(cache, second)
    assert cache.num_evictable == 1  # [3, 4]; [1, 2] is on the path of the second


def test_the_same_tokens_computed_twice_side_by_side() -> None:
    """Two identical prompts: the tree keeps the first one's pages while that uses them, then the second one's."""
    cache = make_cache()
    first, second = Holder(cache, []), Holder(cache, [])
    first.grow([1, 2, 3, 4])
    second.grow([1, 2, 3, 4])
    assert set(first.pages).isdisjoint(second.pages)
    assert cache.match([1, 2, 3, 4]).pages == first.pages
    check(cache, first, second)
    first.leave()
    check(cache, second)
    assert cache.num_evictable == 2  # the second's path does not go through the first's pages
    second.grow([5, 6])
    check(cache, second)
    assert cache.match([1, 2, 3, 4, 5, 6]).pages == second.pages  # all of them are the second's now
    assert cache.num_evictable == 0 and cache.pool.num_used == 3
    second.leave()
    check(cache)


def test_a_page_computed_again_replaces_the_one_that_nobody_uses() -> None:
    cache = make_cache()
    Holder(cache, [1, 2, 3, 4, 5, 6]).leave()
    holder = Holder(cache, [])  # as one that did not look, or was not allowed to take the last page
    holder.grow([1, 2, 3, 4])
    assert cache.match([1, 2, 3, 4]).pages == holder.pages
    assert runs(cache.root) == [[1, 2, 3, 4], [5, 6]] and cache.pool.num_used == 3
    check(cache, holder)


def test_a_namespace_is_part_of_the_key() -> None:
    cache = make_cache()
    Holder(cache, [1, 2, 3, 4], namespace="adapter")
    assert cache.peek([1, 2, 3, 4]) == cache.peek([1, 2, 3, 4], namespace="other") == 0
    assert cache.peek([1, 2, 3, 4], namespace="adapter") == 2
    assert Holder(cache, [1, 2, 3, 4]).hit == 0


def test_locked_paths_stay_and_the_oldest_leaf_goes_first() -> None:
    cache = make_cache()
    old, new, held = Holder(cache, [1, 1]), Holder(cache, [2, 2]), Holder(cache, [3, 3])
    new.leave()
    old.leave()
    Holder(cache, [2, 2]).leave()  # used again: now younger than [1, 1]
    assert cache.num_evictable == 2
    assert cache.evict(1) == 1
    assert runs(cache.root) == [[2, 2], [3, 3]]
    assert cache.evict(5) == 1 and runs(cache.root) == [[3, 3]]
    check(cache, held)


def test_a_leaf_gives_its_pages_from_the_end() -> None:
    cache = make_cache()
    holder = Holder(cache, [1, 2, 3, 4, 5, 6])
    first_two = holder.pages[:2]
    holder.leave()
    assert cache.evict(1) == 1
    assert cache.match([1, 2, 3, 4, 5, 6]).pages == first_two
    check(cache)
    assert cache.stats.evictions == 1


def test_parents_follow_their_last_child() -> None:
    cache = make_cache()
    for tail in ([5, 6], [7, 8]):
        Holder(cache, [1, 2, 3, 4, *tail]).leave()
    assert cache.num_evictable == 4
    assert cache.evict(2) == 2 and runs(cache.root) == [[1, 2, 3, 4]]
    assert cache.evict(2) == 2 and runs(cache.root) == []
    assert cache.pool.num_used == 0


def test_unlocking_twice_is_refused() -> None:
    cache = make_cache()
    holder = Holder(cache, [1, 2])
    holder.leave()
    with pytest.raises(ValueError, match="not locked"):
        cache.unlock(holder.node)


def test_the_check_finds_wrong_books() -> None:
    cache = make_cache()
    holder = Holder(cache, [1, 2, 3, 4])
    with pytest.raises(RuntimeError, match="locked by as many"):
        cache.check([])
    cache.pool.share(holder.pages)
    with pytest.raises(RuntimeError, match="not held by the tree and by each"):
        cache.check([holder.node])
    holder.node.pages.append(7)
    with pytest.raises(RuntimeError, match="4 tokens on 3 pages"):
        cache.check([holder.node])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("page_size", [1, 2, 3, 16])
def test_like_a_dict_of_beginnings(page_size: int, seed: int) -> None:
    """Random requests that come, grow and leave under memory pressure: what is found is always what the dict has."""
    draw = random.Random(seed)
    cache = make_cache(num_pages=40, page_size=page_size)
    holders: list[Holder] = []
    content: dict[int, tuple[int, ...]] = {}  # page -> the whole beginning that its tokens end

    def note(holder: Holder) -> None:
        for i, page in enumerate(holder.pages):
            content[page] = tuple(holder.token_ids[: (i + 1) * page_size])

    for _ in range(400):
        if holders and draw.random() < 0.35:
            holders.pop(draw.randrange(len(holders))).leave()
        elif holders and draw.random() < 0.4:
            holder = draw.choice(holders)
            more = [draw.randrange(2) for _ in range(draw.randrange(2 * page_size + 1))]
            if cache.pool.num_free + cache.evict(3 - cache.pool.num_free) >= 3:
                holder.grow(more)
                note(holder)
        else:
            ids = [draw.randrange(2) for _ in range(draw.randrange(6 * page_size))]
            expected = 0
            known = {content[page] for page in cache.check([holder.node for holder in holders])}
            while tuple(ids[: (expected + 1) * page_size]) in known and (expected + 1) * page_size <= len(ids):
                expected += 1
            assert cache.peek(ids) == expected
            cache.evict(6 - cache.pool.num_free)
            if cache.pool.num_free >= 6:
                holders.append(Holder(cache, ids))
                assert [content.get(p) for p in holders[-1].pages[: holders[-1].hit]] == [
                    tuple(ids[: (i + 1) * page_size]) for i in range(holders[-1].hit)
                ]
                note(holders[-1])
        check(cache, *holders)
    for holder in holders:
        holder.leave()
    assert cache.num_evictable == cache.pool.num_used
    cache.clear()
    check(cache)
    assert cache.pool.num_used == 0
