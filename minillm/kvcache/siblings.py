"""What is shared with ``prefix_cache="none"``: the prompt of several answers, among these, while any of them runs."""

from minillm.kvcache.radix import Node, RadixCache


class SiblingCache(RadixCache):
    """A radix tree that keeps nothing for later: pages that nobody uses any more go at once.

    Each prompt with several answers has a namespace of its own, and other requests are not in it at all.
    """

    def unlock(self, node: Node) -> None:
        super().unlock(node)
        evictions = self.stats.evictions
        self.evict(self.num_evictable)
        self.stats.evictions = evictions  # nobody needed the memory
