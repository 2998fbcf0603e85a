"""What requests with the same beginning can share: the interface of a prefix cache."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class PrefixStats:
    """What a prefix cache did so far.

    queries, hits: requests that were looked up on admission, and those for which anything was found.
    query_tokens, hit_tokens: their known tokens, and those of them that need not be computed.
    evictions: pages that were given up because somebody needed the memory.
    """

    queries: int = 0
    hits: int = 0
    query_tokens: int = 0
    hit_tokens: int = 0
    evictions: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the tokens asked for that was found."""
        return self.hit_tokens / self.query_tokens if self.query_tokens else 0.0

    def count(self, query_tokens: int, hit_tokens: int) -> None:
        """One request was admitted."""
        self.queries += 1
        self.hits += hit_tokens > 0
        self.query_tokens += query_tokens
        self.hit_tokens += hit_tokens


@dataclass(slots=True)
class Match:
    """What is known of a prompt: the pages of its longest known beginning, and where in the cache that ends."""

    pages: list[int]
    node: Any


class PrefixCache(ABC):
    """Pages that are full and therefore never written again, to be found by the tokens that they hold.

    A request holds a place in it, its ``node``: the end of the path that its tokens make. A locked place, and all
    before it, stays. What nobody has locked stays too, until its memory is needed. Nothing is shared between
    namespaces.
    """

    stats: PrefixStats

    @property
    @abstractmethod
    def num_evictable(self) -> int:
        """Pages that `evict` could free now."""

    @abstractmethod
    def kept_pages(self) -> list[int]:
        """The pages that the cache holds a reference to, whether requests use them or not."""

    @abstractmethod
    def peek(self, token_ids: Sequence[int], namespace: Hashable = None) -> int:
        """How many pages `match` would find. Changes nothing."""

    @abstractmethod
    def match(self, token_ids: Sequence[int], namespace: Hashable = None) -> Match:
        """The longest known beginning of these tokens, in whole pages. Nothing is locked yet."""

    @abstractmethod
    def insert(
        self, node: Any, token_ids: Sequence[int], pages: Sequence[int], namespace: Hashable = None
    ) -> tuple[Any, int]:
        """Remember full ``pages`` that go on from ``node``, which the caller has locked. The new end, which is locked
        instead, and how many of the pages were taken up."""

    @abstractmethod
    def lock(self, node: Any) -> None:
        """Protect a place and the path to it."""

    @abstractmethod
    def unlock(self, node: Any) -> None:
        """Take one `lock` back."""

    @abstractmethod
    def evict(self, count: int) -> int:
        """Free up to ``count`` pages, those least recently used first; how many it were."""

    @abstractmethod
    def clear(self) -> None:
        """Forget everything and give the pages back. Only when nothing is locked."""

    @abstractmethod
    def forget(self) -> None:
        """Forget everything, whatever is locked, and leave the pages to whoever sets their books right."""

    @abstractmethod
    def check(self, locked: Iterable[Any]) -> list[int]:
        """Recount everything, given the places that requests hold; RuntimeError if the books are wrong. Its pages."""
