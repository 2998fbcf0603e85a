"""The radix prefix cache: a tree of token runs, whose nodes hold the pages with those tokens' keys and values.

Two requests with the same beginning walk the same path, and share its pages (SGLang's RadixAttention, Zheng et al.
2024). A node is a run of whole pages; where two requests part in the middle of a run, the node is split there.
"""

import heapq
from collections.abc import Hashable, Iterable, Iterator, Sequence

from minillm.kvcache.pages import PagePool
from minillm.kvcache.prefix import Match, PrefixCache, PrefixStats
from minillm.probe import probe

Key = tuple[Hashable, ...]


class Node:
    """A run of tokens, always whole pages, and the pages that hold them.

    key: under which its parent has it: the tokens of its first page, and right under the root their namespace before.
    locks: requests whose path goes through here or ends here. last_used: the tree's clock when a request last came by.
    queued: whether it stands in the tree's queue of leaves.
    """

    __slots__ = ("children", "key", "last_used", "locks", "pages", "parent", "queued", "token_ids")

    def __init__(self, parent: "Node | None", key: Key, token_ids: list[int], pages: list[int], last_used: int) -> None:
        self.parent, self.key, self.token_ids, self.pages, self.last_used = parent, key, token_ids, pages, last_used
        self.children: dict[Key, Node] = {}
        self.locks = 0
        self.queued = False

    def __lt__(self, other: "Node") -> bool:
        return self.last_used < other.last_used

    def __repr__(self) -> str:
        return f"Node({len(self.token_ids)} tokens, pages {self.pages}, {self.locks} locks, {len(self.children)} below)"


class RadixCache(PrefixCache):
    """The tree's own reference keeps a page when no request does; `evict` takes it back.

    A lock counts for the whole path to the root, so a locked node has locked ones above it, and what is below an
    unlocked one is unlocked: everything unlocked can be evicted, leaves first.
    """

    def __init__(self, pool: PagePool) -> None:
        self.pool, self.page_size = pool, pool.page_size
        self.stats = PrefixStats()
        self.root = Node(None, (), [], [], 0)  # without tokens
        self._num_evictable = 0
        self._clock = 0
        self._leaves: list[tuple[int, Node]] = []  # a heap: unlocked leaves, each with its last_used when it came in

    @property
    def num_evictable(self) -> int:
        return self._num_evictable

    def kept_pages(self) -> list[int]:
        return [page for node in self.nodes() for page in node.pages]

    def peek(self, token_ids: Sequence[int], namespace: Hashable = None) -> int:
        return sum(shared for _, shared in self._walk(self.root, token_ids, namespace))

    def match(self, token_ids: Sequence[int], namespace: Hashable = None) -> Match:
        """Walk down from the root as far as the tokens go; a node that they leave half-way is split there."""
        self._clock += 1
        node, pages = self.root, []
        for child, shared in self._walk(node, token_ids, namespace):
            node = child if shared == len(child.pages) else self.split(child, shared)
            node.last_used = self._clock
            pages += node.pages
        return Match(pages, node)

    def insert(
        self, node: Node, token_ids: Sequence[int], pages: Sequence[int], namespace: Hashable = None
    ) -> tuple[Node, int]:
        """Go down what the tree has of these tokens already; what it lacks becomes a new leaf, or lengthens one.

        A page whose tokens the tree has from somebody else is there twice. If nobody uses the tree's, it goes, and the
        caller's takes its place. If somebody does, the caller's pages from there on are not taken up, for now: so a
        path that a request locks is made of its own pages, and never holds memory that it does not use.
        """
        self._clock += 1
        S, taken = self.page_size, 0
        for child, shared in self._walk(node, token_ids, namespace):
            if child.locks:
                return node, taken
            node = child if shared == len(child.pages) else self.split(child, shared)
            self.pool.free(node.pages)
            node.pages = list(pages[taken : taken + shared])
            self.pool.share(node.pages)
            self._count_lock(node)
            taken += shared
        if taken < len(pages):
            new_ids, new_pages = list(token_ids[taken * S :]), list(pages[taken:])
            self.pool.share(new_pages)
            probe.on and probe("radix.insert", node=node, token_ids=new_ids, pages=new_pages, cache=self)
            if node.parent and node.locks == 1 and not node.children:  # nobody else's path ends here: go on in it
                node.token_ids += new_ids
                node.pages += new_pages
            else:
                leaf = Node(node, self._key(node, new_ids, 0, namespace), new_ids, new_pages, self._clock)
                leaf.locks = 1
                node.children[leaf.key] = leaf
                node = leaf
        return node, len(pages)

    def split(self, node: Node, count: int) -> Node:
        """Cut a node after ``count`` pages: a new node above takes those, and is returned; the old one keeps the rest.

        Whose path ended at the node still ends there; so the new one has as many locks.
        """
        assert node.parent and 0 < count < len(node.pages)
        probe.on and probe("radix.split", node=node, count=count, cache=self)
        cut = count * self.page_size
        upper = Node(node.parent, node.key, node.token_ids[:cut], node.pages[:count], node.last_used)
        upper.locks = node.locks
        node.parent.children[node.key] = upper
        node.parent, node.token_ids, node.pages = upper, node.token_ids[cut:], node.pages[count:]
        node.key = self._key(upper, node.token_ids, 0)
        upper.children[node.key] = node
        return upper

    def lock(self, node: Node) -> None:
        for place in self._path(node):
            self._count_lock(place)

    def unlock(self, node: Node) -> None:
        self._clock += 1
        for place in self._path(node):
            if place.locks == 0:
                raise ValueError(f"{place} is not locked: it was unlocked twice, or by someone who never locked it")
            place.locks -= 1
            place.last_used = self._clock
            if place.locks == 0:
                self._num_evictable += len(place.pages)
                self._enqueue(place)

    def evict(self, count: int) -> int:
        """Leaves give their pages from the end, the least recently used leaf first; an empty one is cut off, and its
        parent may be the next."""
        freed: list[int] = []
        while len(freed) < count and self._leaves:
            since, leaf = heapq.heappop(self._leaves)
            leaf.queued = False
            if since != leaf.last_used:  # somebody has come by since it was queued
                self._enqueue(leaf)
            elif leaf.locks == 0 and not leaf.children:
                freed += self._shorten(leaf, count - len(freed))
        if freed:
            self.pool.free(freed)
        self.stats.evictions += len(freed)
        return len(freed)

    def clear(self) -> None:
        for node in self.nodes():
            self.pool.free(node.pages)
        self.forget()

    def forget(self) -> None:
        self.root.children.clear()
        self._leaves.clear()
        self._num_evictable = 0

    def nodes(self) -> Iterator[Node]:
        """Every node but the root, parents first."""
        todo = [self.root]
        while todo:
            below = todo.pop().children.values()
            yield from below
            todo.extend(below)

    def check(self, locked: Iterable[Node]) -> list[int]:
        from minillm.kvcache.radix_check import check_tree

        return check_tree(self, locked)

    def _walk(self, node: Node, token_ids: Sequence[int], namespace: Hashable) -> Iterator[tuple[Node, int]]:
        """The nodes on the way of these tokens, each with how many of its pages they share. Only whole pages count."""
        start, S = 0, self.page_size
        while child := node.children.get(self._key(node, token_ids, start, namespace)):
            shared = self._shared_pages(child.token_ids, token_ids[start : start + len(child.token_ids)])
            whole = shared == len(child.pages)
            yield child, shared  # the caller may split it now
            if not whole:
                return
            node, start = child, start + shared * S

    def _shared_pages(self, run: list[int], token_ids: Sequence[int]) -> int:
        """How many pages two runs of tokens share from their beginning on, found by halving."""
        S = self.page_size
        if run == token_ids:
            return len(run) // S
        low, high = 1, min(len(run), len(token_ids)) // S  # the first page is known to be shared
        while low < high:
            middle = (low + high + 1) // 2
            if run[low * S : middle * S] == token_ids[low * S : middle * S]:
                low = middle
            else:
                high = middle - 1
        return low

    def _key(self, parent: Node, token_ids: Sequence[int], start: int, namespace: Hashable = None) -> Key:
        """Under which a child that begins with the page at ``start`` of these tokens stands at its parent."""
        page = tuple(token_ids[start : start + self.page_size])
        return page if parent.parent else (namespace, *page)

    def _path(self, node: Node) -> Iterator[Node]:
        """The node and those above it, without the root."""
        while node.parent:
            yield node
            node = node.parent

    def _count_lock(self, node: Node) -> None:
        if node.locks == 0:
            self._num_evictable -= len(node.pages)
        node.locks += 1

    def _enqueue(self, node: Node) -> None:
        """Into the queue of leaves, if it is one that may be evicted and does not stand there yet."""
        if node.parent and node.locks == 0 and not node.children and not node.queued:
            heapq.heappush(self._leaves, (node.last_used, node))
            node.queued = True

    def _shorten(self, leaf: Node, count: int) -> list[int]:
        """Take up to ``count`` pages off a leaf's end."""
        assert leaf.parent
        taken = leaf.pages[-count:]
        probe.on and probe("radix.evict", node=leaf, pages=taken, cache=self)
        if len(taken) == len(leaf.pages):
            del leaf.parent.children[leaf.key]
            self._enqueue(leaf.parent)
            leaf.parent = None
        else:
            del leaf.pages[-count:], leaf.token_ids[-count * self.page_size :]
            self._enqueue(leaf)
        self._num_evictable -= len(taken)
        return taken
