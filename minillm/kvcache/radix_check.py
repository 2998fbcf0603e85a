"""The radix tree's books, recounted from nothing but the tree and the places that requests hold."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minillm.kvcache.radix import Node, RadixCache


def check_tree(cache: "RadixCache", locked: Iterable["Node"]) -> list[int]:
    """Every page of the tree, once the books are found right; RuntimeError names the first node whose are not."""
    S, locks = cache.page_size, Counter[int]()
    for node in locked:
        while node.parent:
            locks[id(node)] += 1
            node = node.parent
    pages: list[int] = []
    queued = {id(node) for _, node in cache._leaves}
    for node in cache.nodes():
        parent = node.parent
        if parent is None or parent.children.get(node.key) is not node or node.key[-S:] != tuple(node.token_ids[:S]):
            raise RuntimeError(f"{node} is not its parent's child under its first page's tokens")
        if not node.pages or len(node.token_ids) != len(node.pages) * S:
            raise RuntimeError(f"{node} has {len(node.token_ids)} tokens on {len(node.pages)} pages of {S}")
        if node.locks != locks.pop(id(node), 0):
            raise RuntimeError(f"{node} is not locked by as many requests as have their path through it")
        if node.locks == 0 and not node.children and id(node) not in queued:
            raise RuntimeError(f"{node} is a leaf that nobody has locked, but it is not in the queue for eviction")
        if any(cache.pool.references[page] != 1 + node.locks for page in node.pages):
            raise RuntimeError(f"{node}: its pages are not held by the tree and by each request that has locked it")
        pages += node.pages
    if locks:
        raise RuntimeError("a request holds a place that is not in the tree: it was evicted while locked")
    evictable = sum(len(node.pages) for node in cache.nodes() if node.locks == 0)
    if evictable != cache.num_evictable:
        raise RuntimeError(f"{evictable} pages of the tree are unlocked, but {cache.num_evictable} are counted")
    if twice := [page for page, count in Counter(pages).items() if count > 1]:
        raise RuntimeError(f"pages {twice} are in the tree twice")
    return pages
