"""Checkpoint 06: the radix tree. Oracle: a plain dict from every page-aligned beginning to the page that ends it."""

import random
from collections.abc import Sequence
from typing import Any

from exercises import jobs_for, tokens_of_hugging_face
from tiny import Oracle

from minillm.kvcache.pages import PagePool
from minillm.kvcache.radix import Node, RadixCache

S = 2  # tokens of a page
Beginnings = dict[tuple[int, ...], int]
BASE = tuple(range(5, 25))
PROMPTS = [BASE, (*BASE[:12], 7, 8, 9), (*BASE, 30, 31), BASE, (*BASE[:6], 90, 91, 92), (11, 4, 200)]


def engine_writes_the_right_tokens(oracle: Oracle, num_pages: int) -> None:
    """Prompts that begin alike, some after each other and some at once."""
    settings: dict[str, Any] = {"prefix_cache": "radix", "page_size": 4, "num_pages": num_pages}
    tokens_of_hugging_face(oracle, jobs_for(PROMPTS, gap=4), **settings)
    tokens_of_hugging_face(oracle, jobs_for(PROMPTS), **settings)


class Holder:
    """One request, as the cache meets it: it takes known pages, computes the others, and makes them known."""

    def __init__(self, cache: RadixCache, token_ids: Sequence[int], known: int | None = None) -> None:
        """``known``: find no more than so many pages, as one that began before the others had theirs in the tree."""
        self.cache, self.token_ids = cache, list(token_ids)
        found = cache.match(self.token_ids if known is None else self.token_ids[: known * S])
        cache.lock(found.node)
        cache.pool.share(found.pages)
        self.pages, self.node, self.shareable = list(found.pages), found.node, len(found.pages)
        self.grow([])

    def grow(self, more: Sequence[int]) -> int:
        """More tokens; how many pages the tree took up."""
        self.token_ids += more
        full = len(self.token_ids) // S
        self.pages += self.cache.pool.allocate(full - len(self.pages))
        new = self.pages[self.shareable : full]
        if not new:
            return 0
        token_ids = self.token_ids[self.shareable * S : full * S]
        self.node, taken = self.cache.insert(self.node, token_ids, new)
        self.shareable += taken
        return taken

    def leave(self) -> None:
        self.cache.unlock(self.node)
        self.cache.pool.free(self.pages)


def make_cache(*texts: Sequence[int], num_pages: int = 32) -> RadixCache:
    """A tree in which these texts have been computed, one after the other, by requests that are gone."""
    cache = RadixCache(PagePool(num_pages, S))
    for text in texts:
        Holder(cache, text).leave()
    return cache


def beginnings(cache: RadixCache) -> Beginnings:
    """What the tree holds, read from its nodes: each beginning in whole pages, and the page of its last tokens."""
    found: Beginnings = {}

    def read(node: Node, before: tuple[int, ...]) -> None:
        for child in node.children.values():
            text = before
            for i, page in enumerate(child.pages):
                text += tuple(child.token_ids[i * S : (i + 1) * S])
                found[text] = page
            read(child, text)

    read(cache.root, ())
    return found


def runs(cache: RadixCache) -> list[list[int]]:
    """The tokens of every node, depth first."""

    def below(node: Node) -> list[list[int]]:
        return [run for child in node.children.values() for run in (child.token_ids, *below(child))]

    return below(cache.root)


def nodes_are(cache: RadixCache, right: list[list[int]], when: str) -> None:
    got = runs(cache)
    assert sorted(got) == sorted(right), f"{when}: the nodes hold the tokens {got}, and {right} is right"


def books_are_right(cache: RadixCache, *holders: Holder, when: str) -> None:
    """Locks, counts and references, recounted."""
    try:
        in_tree = cache.check([holder.node for holder in holders])
        cache.pool.check([*(holder.pages for holder in holders), in_tree])
    except RuntimeError as error:
        raise AssertionError(f"{when}: the books of pages and locks are wrong: {error}") from None


def free_is(cache: RadixCache, right: set[int], when: str) -> None:
    got = set(cache.pool.free_pages)
    assert got == right, f"{when}: pages {sorted(got)} are free, and {sorted(right)} is right"


class TestMatch:
    """6.1"""

    @staticmethod
    def finds(cache: RadixCache, token_ids: Sequence[int], namespace: Any = None) -> None:
        """What match finds is what the dict has: the longest beginning all of whose pages are there."""
        known, right = beginnings(cache), []
        while (text := tuple(token_ids[: (len(right) + 1) * S])) in known and len(text) == (len(right) + 1) * S:
            right.append(known[text])
        match = cache.match(list(token_ids), namespace)
        texts = [list(text) for text in known if not any(other[: len(text)] == text != other for other in known)]
        assert match.pages == right, (
            f"in the tree are the tokens {texts}, with pages of {S}: match({list(token_ids)}) gives pages "
            f"{match.pages}, and {right} is right"
        )
        path, node = [], match.node
        while node.parent:
            path, node = [*node.pages, *path], node.parent
        assert path == right, (
            f"match({list(token_ids)}): from the root to the node that it gives lie pages {path}, and {right} is right"
        )
        assert node is cache.root, "match gives a node from which no way leads to the root; so its pages are lost"

    def test_an_empty_tree_knows_no_page(self) -> None:
        self.finds(make_cache(), [1, 2, 3, 4])
        assert make_cache().match([]).pages == [], "no tokens, no pages"

    def test_a_text_that_is_known_is_found_whole(self) -> None:
        self.finds(make_cache([1, 2, 3, 4, 5, 6]), [1, 2, 3, 4, 5, 6])
        self.finds(make_cache([1, 2, 3, 4, 5, 6]), [1, 2, 3, 4, 5, 6, 7, 8])

    def test_only_whole_pages_count(self) -> None:
        for count in range(8):
            self.finds(make_cache([1, 2, 3, 4, 5, 6]), [1, 2, 3, 4, 5, 6, 7][:count])

    def test_a_node_that_is_left_half_way_is_cut(self) -> None:
        cache = make_cache([1, 2, 3, 4, 5, 6])
        self.finds(cache, [1, 2, 3, 4, 9, 9])
        nodes_are(cache, [[1, 2, 3, 4], [5, 6]], "after a request with tokens [1, 2, 3, 4, 9, 9] was looked up")

    def test_the_way_leads_through_several_nodes(self) -> None:
        cache = make_cache([1, 2, 3, 4, 5, 6], [1, 2, 7, 8, 9, 9], [1, 2, 7, 8, 0, 0])
        for text in ([1, 2, 7, 8, 9, 9], [1, 2, 7, 8, 5, 5], [1, 2, 3, 4, 0, 0], [1, 2], [7, 8]):
            self.finds(cache, text)

    def test_another_namespace_finds_nothing(self) -> None:
        cache = make_cache([1, 2, 3, 4])
        got = cache.match([1, 2, 3, 4], "another model's adapter").pages
        assert got == [], f"what is known in one namespace is unknown in another, but pages {got} came"

    def test_who_comes_by_makes_the_path_young(self) -> None:
        cache = make_cache([1, 1, 2, 2], [3, 3], [4, 4])
        newest = max(node.last_used for node in cache.nodes())
        node = cache.match([1, 1, 2, 2]).node
        assert node.last_used > newest, (
            f"a request came by: the node's last_used is {node.last_used}, and it must be greater than {newest}, which "
            "was the newest so far; otherwise its pages would be evicted too soon"
        )

    def test_like_a_dict_of_beginnings(self) -> None:
        draw = random.Random(0)
        for _ in range(30):
            texts = [[draw.randrange(2) for _ in range(draw.randrange(12))] for _ in range(4)]
            cache = make_cache(*texts)
            for _ in range(8):
                self.finds(cache, [draw.randrange(2) for _ in range(draw.randrange(14))])
            books_are_right(cache, when=f"after look-ups among the tokens {texts}")

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        engine_writes_the_right_tokens(oracle, num_pages=64)


class TestSplit:
    """6.2"""

    def test_each_half_has_its_tokens_and_pages(self) -> None:
        for count in (1, 2):
            cache = make_cache([1, 2, 3, 4, 5, 6])
            (node,) = cache.nodes()
            pages = list(node.pages)
            upper = cache.split(node, count)
            for name, half, tokens, held in (
                ("the new node", upper, [1, 2, 3, 4, 5, 6][: count * S], pages[:count]),
                ("the old node", node, [1, 2, 3, 4, 5, 6][count * S :], pages[count:]),
            ):
                assert (half.token_ids, half.pages) == (tokens, held), (
                    f"[1, 2, 3, 4, 5, 6] cut after {count} pages of {S} tokens: {name} has the tokens {half.token_ids} "
                    f"on pages {half.pages}, and {tokens} on {held} is right"
                )

    def test_the_new_node_stands_between(self) -> None:
        cache = make_cache([1, 2, 3, 4, 5, 6])
        (node,) = cache.nodes()
        before = beginnings(cache)
        upper = cache.split(node, 1)
        assert upper.parent is cache.root and list(cache.root.children.values()) == [upper], (
            "the new node must be the root's child in the old one's place; below the root are now nodes with tokens "
            f"{[child.token_ids for child in cache.root.children.values()]}"
        )
        assert node.parent is upper and list(upper.children.values()) == [node], (
            f"the old node must be the new one's child; below that are {len(upper.children)} nodes with the tokens "
            f"{[child.token_ids for child in upper.children.values()]}"
        )
        assert beginnings(cache) == before, f"a cut moves no page: {before} before, {beginnings(cache)} after"
        books_are_right(cache, when="after [1, 2, 3, 4, 5, 6] was cut after its first page")

    def test_what_was_below_stays_below_the_rest(self) -> None:
        cache = make_cache([1, 2, 3, 4, 5, 6, 7, 7], [1, 2, 3, 4, 5, 6, 8, 8])
        before = beginnings(cache)
        node = next(one for one in cache.nodes() if one.children)
        cache.split(node, 2)
        assert beginnings(cache) == before, (
            f"a cut moves no page, and its children stay below: {before} before, {beginnings(cache)} after"
        )
        got = cache.match([1, 2, 3, 4, 5, 6, 8, 8]).pages
        right = [before[1, 2], before[1, 2, 3, 4], before[1, 2, 3, 4, 5, 6], before[1, 2, 3, 4, 5, 6, 8, 8]]
        assert got == right, f"after the cut, the second text's pages are {got}, and {right} is right"
        books_are_right(cache, when="after a node with two below was cut")

    def test_requests_keep_their_locks_on_both_halves(self) -> None:
        cache = make_cache()
        holders = [Holder(cache, [1, 2, 3, 4, 5, 6]), Holder(cache, [1, 2, 3, 4, 5, 6])]
        (node,) = cache.nodes()
        upper = cache.split(node, 1)
        assert (upper.locks, node.locks) == (2, 2), (
            f"two requests' paths end at the old node and go through the new one: they have {node.locks} and "
            f"{upper.locks} locks, and 2 and 2 is right"
        )
        books_are_right(cache, *holders, when="after a node that two requests have locked was cut")
        for holder in holders:
            holder.leave()
        assert cache.num_evictable == 3, f"both requests left: {cache.num_evictable} pages can go, and 3 is right"

    def test_neither_half_is_younger_for_it(self) -> None:
        cache = make_cache([1, 2, 3, 4, 5, 6])
        (node,) = cache.nodes()
        age = node.last_used
        upper = cache.split(node, 2)
        assert (upper.last_used, node.last_used) == (age, age), (
            f"the node's last_used was {age}; a cut is no use of its pages, but now it is {upper.last_used} above and "
            f"{node.last_used} below"
        )

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        engine_writes_the_right_tokens(oracle, num_pages=64)


class TestInsert:
    """6.3"""

    def test_the_first_pages_become_a_leaf(self) -> None:
        cache = make_cache()
        pages = cache.pool.allocate(2)
        node, taken = cache.insert(cache.root, [1, 2, 3, 4], pages)
        assert taken == 2, f"both pages are new, so 2 were taken up, not {taken}"
        nodes_are(cache, [[1, 2, 3, 4]], "after 2 pages came into an empty tree")
        assert beginnings(cache) == {(1, 2): 0, (1, 2, 3, 4): 1}, f"pages 0 and 1 are wrong: {beginnings(cache)}"
        held = [cache.pool.references[page] for page in pages]
        assert held == [2, 2], f"the request and now the tree hold pages 0 and 1: counted {held} times, not [2, 2]"
        assert node.parent is cache.root and node.locks == 1, (
            f"the request's path ends at the new node, which is locked once: {node.locks} locks"
        )

    def test_another_ending_becomes_a_leaf_beside(self) -> None:
        cache = make_cache([1, 2, 3, 4, 5, 6])
        holder = Holder(cache, [1, 2, 3, 4, 9, 9, 8, 8])
        nodes_are(cache, [[1, 2, 3, 4], [5, 6], [9, 9, 8, 8]], "a request with other tokens after the second page")
        books_are_right(cache, holder, when="after a second ending came in")

    def test_a_request_alone_at_its_leaf_lengthens_it(self) -> None:
        cache = make_cache()
        holder = Holder(cache, [1, 2])
        taken = [holder.grow([token]) for token in range(3, 9)]
        assert taken == [0, 1, 0, 1, 0, 1], f"6 tokens, 3 pages: taken up were {taken}"
        nodes_are(cache, [[1, 2, 3, 4, 5, 6, 7, 8]], "a request alone, which grew by three pages")
        books_are_right(cache, holder, when="after a request has grown")

    def test_two_at_one_leaf_grow_apart_below_it(self) -> None:
        cache = make_cache()
        first, second = Holder(cache, [1, 2]), Holder(cache, [1, 2])
        first.grow([3, 4])
        second.grow([5, 6])
        nodes_are(cache, [[1, 2], [3, 4], [5, 6]], "two requests began with [1, 2] and went on differently")
        books_are_right(cache, first, second, when="after two have grown apart")

    def test_what_somebody_uses_is_not_replaced(self) -> None:
        cache = make_cache()
        first = Holder(cache, [1, 2, 3, 4])
        second = Holder(cache, [], known=0)
        taken = second.grow([1, 2, 3, 4])
        assert taken == 0, (
            f"the tree has these tokens from a request that runs: none of the second's pages is taken up, not {taken}"
        )
        assert list(beginnings(cache).values()) == first.pages, (
            f"the first request holds pages {first.pages}; in the tree are {list(beginnings(cache).values())}"
        )
        books_are_right(cache, first, second, when="two requests computed the same tokens side by side")

    def test_what_nobody_uses_is_replaced(self) -> None:
        cache = make_cache([1, 2, 3, 4, 5, 6])
        holder = Holder(cache, [1, 2, 3, 4], known=0)
        got = [beginnings(cache)[text] for text in ((1, 2), (1, 2, 3, 4))]
        assert got == holder.pages, (
            f"the same tokens were computed again on pages {holder.pages}; the tree holds {got}: two pages too many"
        )
        assert cache.pool.num_used == 3, f"6 tokens need 3 pages, but {cache.pool.num_used} are in use"
        nodes_are(cache, [[1, 2, 3, 4], [5, 6]], "the first two pages of three were computed again")
        books_are_right(cache, holder, when="after pages that nobody uses were replaced")

    def test_like_a_dict_of_beginnings(self) -> None:
        """Requests that come, grow and leave: what was taken up is in the tree, and nothing else."""
        draw = random.Random(1)
        for _ in range(20):
            cache, right, holders = make_cache(num_pages=400), set[tuple[int, ...]](), list[Holder]()
            for _ in range(40):
                if holders and draw.random() < 0.4:
                    holder = draw.choice(holders)
                    holder.grow([draw.randrange(2) for _ in range(draw.randrange(5))])
                elif holders and draw.random() < 0.4:
                    holders.pop(draw.randrange(len(holders))).leave()
                    continue
                else:
                    holder = Holder(cache, [draw.randrange(2) for _ in range(draw.randrange(9))])
                    holders.append(holder)
                text = holder.token_ids
                right |= {tuple(text[: end * S]) for end in range(1, holder.shareable + 1)}
                got = set(beginnings(cache))
                assert got == right, (
                    f"a request has computed {text}: the tree lacks the tokens {sorted(right - got)}, and has "
                    f"{sorted(got - right)} too many"
                )
                books_are_right(cache, *holders, when=f"after a request has computed the tokens {text}")

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        engine_writes_the_right_tokens(oracle, num_pages=64)


class TestEvict:
    """6.4"""

    def test_the_oldest_leaf_goes_first(self) -> None:
        cache = make_cache([1, 1], [2, 2], [3, 3], num_pages=3)
        for page in (0, 1, 2):
            count = cache.evict(1)
            assert count == 1, f"1 page was asked for, and {count} came free"
            free_is(cache, set(range(page + 1)), f"pages 0, 1, 2 were used in this order, {page + 1} were evicted")

    def test_who_was_used_again_is_young(self) -> None:
        cache = make_cache([1, 1], [2, 2], [1, 1], num_pages=2)
        cache.match([1, 1])
        cache.evict(1)
        nodes_are(cache, [[1, 1]], "[1, 1] was asked for again after [2, 2], then 1 page was evicted")

    def test_pages_go_from_the_end(self) -> None:
        cache = make_cache([1, 2, 3, 4, 5, 6], num_pages=3)
        cache.evict(1)
        nodes_are(cache, [[1, 2, 3, 4]], "1 of 3 pages was evicted")
        free_is(cache, {2}, "1 of pages [0, 1, 2] was evicted")
        cache.evict(1)
        free_is(cache, {1, 2}, "a second of pages [0, 1, 2] was evicted")
        books_are_right(cache, when="after a leaf was shortened twice")

    def test_no_more_than_was_asked_for(self) -> None:
        cache = make_cache([1, 1], [2, 2, 3, 3, 4, 4], num_pages=4)
        count = cache.evict(2)
        assert count == 2, f"2 pages were asked for, and {count} came free"
        free_is(cache, {0, 3}, "page 0 is the oldest leaf's, the next leaf's are [1, 2, 3], and 2 were evicted")
        assert cache.evict(0) == 0 and cache.evict(-3) == 0, "nobody asked for a page, and one was evicted"

    def test_parents_follow_their_last_child(self) -> None:
        cache = make_cache([1, 2, 3, 4], [1, 2, 5, 6], num_pages=3)
        cache.evict(2)
        nodes_are(cache, [[1, 2]], "both endings were evicted, 2 pages")
        count = cache.evict(5)
        assert count == 1, f"1 page was left to evict, and {count} came free"
        nodes_are(cache, [], "all pages were evicted")

    def test_what_a_request_has_locked_stays(self) -> None:
        cache = make_cache([1, 2, 3, 4], [7, 7], num_pages=4)
        holder = Holder(cache, [1, 2, 3, 4])
        count = cache.evict(9)
        assert count == 1, f"2 pages are locked and 1 is not: {count} came free"
        nodes_are(cache, [[1, 2, 3, 4]], "a request has locked [1, 2, 3, 4], and 9 pages were asked for")
        books_are_right(cache, holder, when="after all but a request's pages were evicted")
        holder.leave()
        count = cache.evict(9)
        assert count == 2, f"the request has left, so its 2 pages can go: {count} came free"

    def test_a_lock_that_came_later_counts(self) -> None:
        cache = make_cache([1, 2, 3, 4], num_pages=2)
        (node,) = cache.nodes()
        cache.lock(node)
        count = cache.evict(1)
        assert count == 0, f"the only node was locked after it had become a leaf: {count} pages came free, not 0"
        cache.unlock(node)
        count = cache.evict(1)
        assert count == 1, f"the lock is gone, so 1 of 2 pages can be had, but {count} came free"

    def test_it_is_counted(self) -> None:
        cache = make_cache([1, 2, 3, 4], [7, 7], num_pages=4)
        cache.evict(1)
        cache.evict(2)
        assert cache.stats.evictions == 3, f"3 pages were evicted, and {cache.stats.evictions} are counted"
        assert cache.num_evictable == 0, f"no page is left, but {cache.num_evictable} are said to be evictable"

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        engine_writes_the_right_tokens(oracle, num_pages=12)
