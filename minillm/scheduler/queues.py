"""Who waits, who runs, and who sits where: requests come, get a seat, leave it, and end, in whatever way."""

from collections import deque

from minillm.config import EngineConfig
from minillm.kvcache.manager import KVCacheManager
from minillm.kvcache.pages import PagePool
from minillm.kvcache.radix import RadixCache
from minillm.probe import probe
from minillm.request import Request, RequestState


class Queues:
    """The requests of one engine. Whom of them to serve, a `Scheduler` decides.

    waiting, running: each request that has not ended is in one of them. free_seats: a stack; who runs has a seat.
    """

    def __init__(self, config: EngineConfig, manager: KVCacheManager) -> None:
        self.config = config
        self.manager = manager
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._alive: dict[int, Request] = {}  # both, by id
        # Who runs holds a page at least, so more seats than pages are never taken.
        self.num_seats = min(config.max_num_seqs, manager.pool.num_pages)
        self.free_seats = list(reversed(range(self.num_seats)))

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    @property
    def pool(self) -> PagePool:
        """The manager's pages, for whoever looks; as is `cache`."""
        return self.manager.pool

    @property
    def cache(self) -> RadixCache:
        return self.manager.cache

    def add(self, request: Request) -> None:
        """Queue a request. ValueError if it could never run, however long it waited."""
        longest = len(request.prompt_ids) + request.max_tokens - 1  # the last token's KV is never needed
        needed = self.manager.pages_for(longest)
        if needed > self.pool.num_pages:
            raise ValueError(
                f"request {request.id} may grow to {longest} cached tokens, which is {needed} pages of "
                f"{self.pool.page_size}, but the KV cache has {self.pool.num_pages} pages; lower max_tokens, shorten "
                "the prompt, or give the cache more memory"
            )
        probe.on and probe("request.add", request=request, scheduler=self)
        self._alive[request.id] = request
        self.waiting.append(request)

    def abort(self, request: Request) -> None:
        """End a request wherever it is. Nothing happens if it has ended already."""
        if request.id not in self._alive:
            return
        probe.on and probe("request.abort", request=request, scheduler=self)
        try:
            self.end(request)
        except BaseException:  # Ctrl-C, in the middle of the books
            self.start_over()
            self.end(request)
            raise
        finally:
            if not request.finished:  # it is, if the step that finished it was cut short
                request.finish("abort")

    def end(self, request: Request) -> None:
        """Take back what a request holds that has ended. Nothing happens if it has left already."""
        if request.id not in self._alive:
            return
        if request.seat >= 0:
            self._leave(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        del self._alive[request.id]

    def start_over(self) -> None:
        """After a step that was cut short (Ctrl-C, an error), nobody knows what was computed: do all of it again.

        The books may have been half written, so they are not undone but begun anew: all pages and seats are free, and
        every request that has not ended waits.
        """
        self.manager.reset()
        for request in self._alive.values():
            request.leave()
            request.in_flight = 0  # nobody will read them
        self._alive = {id: request for id, request in self._alive.items() if not request.finished}
        for request in self._alive.values():
            request.state = RequestState.WAITING
        self.running = []
        self.waiting = deque(sorted(self._alive.values(), key=lambda request: request.id))
        self.free_seats = list(reversed(range(self.num_seats)))

    def flush_cache(self) -> None:
        """Forget all cached prefixes. RuntimeError unless nothing runs and nothing waits."""
        if not self.idle:
            raise RuntimeError(
                f"the prefix cache was not flushed: {len(self.running)} requests run and {len(self.waiting)} wait; "
                "let them end, or abort them"
            )
        self.manager.flush()

    def check(self) -> None:
        """Recount all pages and seats; RuntimeError says what is wrong."""
        self.manager.check([*self.running, *self.waiting])
        seats = sorted([*self.free_seats, *(request.seat for request in self.running)])
        if seats != list(range(self.num_seats)):
            raise RuntimeError(f"seats are lost or taken twice: {seats}")

    def _requeue(self, request: Request) -> None:
        """Back to the front of the queue."""
        request.state = RequestState.WAITING
        self.waiting.appendleft(request)

    def _front(self) -> Request | None:
        """Who is first in the queue. Requests that wait for another answer's prompt need keep nobody waiting."""
        return next((request for request in self.waiting if not self.manager.awaited(request)), None)

    def _leave(self, request: Request) -> None:
        """Give seat and pages back."""
        probe.on and probe("kv.free", request=request, pages=request.pages, pool=self.pool)
        self.running.remove(request)
        self.free_seats.append(request.seat)
        self.manager.give_back(request)
