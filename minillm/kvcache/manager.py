"""The manager of the KV cache: which pages a request gets, shares with others, and gives back.

The scheduler says who runs, the manager says where: it alone deals with the pool and the prefix cache. (vLLM:
KVCacheManager.)
"""

from collections.abc import Hashable, Iterable

from minillm.kvcache.pages import PagePool, pages_for
from minillm.kvcache.radix import RadixCache
from minillm.kvcache.siblings import SiblingCache
from minillm.probe import probe
from minillm.request import Request, RequestState


class KVCacheManager:
    """The pages of all requests. What a request has is in its ``place``: pages, node, how much of it is computed.

    shares_prefixes: whether there is a prefix cache, in which any request finds the pages of others.
    reuse_kv: whether a page means anything to a later step; if not, none is shared.
    """

    def __init__(self, num_pages: int, page_size: int, shares_prefixes: bool = False, reuse_kv: bool = True) -> None:
        self.pool = PagePool(num_pages, page_size)
        self.shares_prefixes, self.reuse_kv = shares_prefixes, reuse_kv
        self.cache: RadixCache = RadixCache(self.pool) if shares_prefixes else SiblingCache(self.pool)

    @property
    def num_available(self) -> int:
        """Pages that can be had: the free ones, and those that only the prefix cache keeps."""
        return len(self.pool.free_pages) + self.cache.num_evictable

    def pages_for(self, num_tokens: int) -> int:
        """How many pages so many tokens need."""
        return pages_for(num_tokens, self.pool.page_size)

    def lacking(self, request: Request, count: int) -> int:
        """Pages that the request lacks to have ``count`` more tokens computed."""
        place = request.place
        return max(pages_for(place.num_computed + count, self.pool.page_size) - len(place.pages), 0)

    def room(self, request: Request) -> int:
        """How many more tokens of a request could be computed, with all pages that can be had."""
        place = request.place
        return (len(place.pages) + self.num_available) * self.pool.page_size - place.num_computed

    def look_up(self, request: Request) -> None:
        """Give a request the pages that hold its first tokens already. At least one token is left to compute, because
        the logits after the last one are needed."""
        if not self._shares(request):
            return
        S, place = self.pool.page_size, request.place
        known = 0 if request.wants_prompt_logprobs else (request.num_tokens - 1) // S
        match = self.cache.match(request.token_ids(0, known * S), self._namespace(request))
        if match.pages:
            probe.on and probe("radix.match", request=request, pages=match.pages, node=match.node, cache=self.cache)
            self.cache.lock(match.node)
            self.pool.share(match.pages)
        place.pages, place.node = match.pages, match.node
        place.num_shareable = place.num_offered = len(match.pages)
        place.num_computed = len(match.pages) * S

    def peek(self, request: Request) -> int:
        """How many pages `look_up` would find. Changes nothing."""
        token_ids = request.token_ids(0, request.num_tokens)
        return self.cache.peek(token_ids, self._namespace(request)) if self._shares(request) else 0

    def awaited(self, request: Request) -> Request | None:
        """Whose prompt is just being computed, if it is that of another answer to it, whose pages this one is to
        share."""
        first = request.leader
        if first is None or first.state is not RequestState.RUNNING or not self.reuse_kv:
            return None
        return first if len(first.place.pages) < self.pages_for(len(first.prompt_ids)) else None

    def take(self, request: Request, count: int) -> list[int]:
        """Give a request the pages that it lacks for ``count`` more tokens; the new ones. There must be so many."""
        place, S = request.place, self.pool.page_size
        start = place.num_computed
        end = start + count
        new_pages: list[int] = []
        if end > len(place.pages) * S:
            self.cache.evict(self.lacking(request, count) - self.pool.num_free)
            new_pages = self.pool.append(place.pages, end)
            probe.on and probe("kv.allocate", request=request, pages=new_pages, pool=self.pool)
        if end // S > place.num_offered and place.node is not None:
            self._offer(request, end)
        return new_pages

    def count(self, request: Request) -> None:
        """A request is admitted with what `look_up` has found: note how much that was."""
        self.cache.stats.count(request.num_tokens, request.place.num_computed)
        if request.num_cached is None:
            request.num_cached = request.place.num_computed

    def give_back(self, request: Request) -> None:
        """Let go of a request's pages and its place in the prefix cache: without pages, nothing is computed."""
        place = request.place
        if place.node is not None:
            self.cache.unlock(place.node)
        self.pool.free(place.pages)
        request.leave()

    def flush(self) -> None:
        """Forget all cached prefixes. Only when nobody holds a page."""
        self.cache.clear()

    def reset(self) -> None:
        """All pages are free, and nothing is cached. Whoever held any must `leave`."""
        self.cache.forget()
        self.pool.reset()

    def check(self, requests: Iterable[Request]) -> None:
        """Recount all pages, given all who may hold some; RuntimeError says what is wrong."""
        places = [request.place for request in requests]
        in_tree = self.cache.check(place.node for place in places if place.node is not None)
        self.pool.check([*(place.pages for place in places), in_tree])

    def _offer(self, request: Request, end: int) -> None:
        """Let others find the request's pages that are full once its tokens before ``end`` are computed, even others in
        the same step: every layer stores all its keys and values before it looks at any. A page counts only when the
        host knows its tokens by number, and none is a draft."""
        place, S = request.place, self.pool.page_size
        first, full = place.num_shareable, min(end, request.num_known) // S
        if full > place.num_offered:  # one has become full just now; else it was tried before, in vain
            token_ids = request.token_ids(first * S, (full - first) * S)
            pages = place.pages[first:full]
            place.node, taken = self.cache.insert(place.node, token_ids, pages, self._namespace(request))
            place.num_shareable += taken
            place.num_offered = full

    def _shares(self, request: Request) -> bool:
        """Whether there may be anyone to share pages with: without a prefix cache, only other answers to its prompt."""
        return self.shares_prefixes or (self.reuse_kv and request.params.n > 1)

    def _namespace(self, request: Request) -> Hashable:
        """Who shares pages: requests of the same namespace."""
        return request.namespace if self.shares_prefixes else request.group

    def __repr__(self) -> str:
        return f"KVCacheManager({self.pool.num_used} of {self.pool.num_pages} pages in use)"
