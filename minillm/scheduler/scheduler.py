"""The scheduler: who runs in the next step, with how many tokens and which pages.

There is no prefill phase and no decode phase. Every request has pending tokens (known, but without keys and values),
and a step computes some of them; a request whose last known token was computed gets a new one. vLLM V1 does the same.
"""

from collections import deque

from minillm.config import EngineConfig
from minillm.kvcache.pages import PagePool, pages_for
from minillm.kvcache.prefix import NoPrefixCache, PrefixCache
from minillm.probe import probe
from minillm.request import Request, RequestState
from minillm.scheduler.plan import Joining, PlanRow, StepPlan, StepResult
from minillm.scheduler.policy import POLICIES


class Scheduler:
    """Waiting requests in the order of the policy, running ones in order of admission (oldest first)."""

    def __init__(self, config: EngineConfig, pool: PagePool, cache: PrefixCache | None = None) -> None:
        self.config = config
        self.pool = pool
        self.cache = cache or NoPrefixCache()
        self.policy = POLICIES[config.scheduling_policy]()
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._alive: dict[int, Request] = {}  # both, by id
        self._aside: list[Request] = []  # while a step is planned: who waits for another answer's prompt
        # Who runs holds a page at least, so more seats than pages are never taken.
        self.num_seats = min(config.max_num_seqs, pool.num_pages)
        self.free_seats = list(reversed(range(self.num_seats)))
        self.num_steps = 0
        self.num_preemptions = 0

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    @property
    def num_available(self) -> int:
        """Pages that can be had: the free ones, and those that only the prefix cache keeps."""
        return self.pool.num_free + self.cache.num_evictable

    def add(self, request: Request) -> None:
        """Queue a request. ValueError if it could never run, however long it waited."""
        longest = len(request.prompt_ids) + request.max_tokens - 1  # the last token's KV is never needed
        needed = pages_for(longest, self.pool.page_size)
        if needed > self.pool.num_pages:
            raise ValueError(
                f"request {request.id} may grow to {longest} cached tokens, which is {needed} pages of "
                f"{self.pool.page_size}, but the KV cache has {self.pool.num_pages} pages; lower max_tokens, shorten "
                "the prompt, or give the cache more memory"
            )
        probe.on and probe("request.add", request=request, scheduler=self)
        self._alive[request.id] = request
        self.waiting.append(request)

    def schedule(self) -> StepPlan:
        """Decide the next step, and take the pages for it."""
        self.num_steps += 1
        plan = StepPlan(self.num_steps)
        budget = self.config.max_num_batched_tokens
        may_admit = self.config.batching == "continuous" or not self.running
        probe.on and probe("scheduler.begin", scheduler=self, budget=budget)
        # 1. Running requests, oldest first. Whoever finds no page takes those of the youngest.
        self.policy.sort_running(self.running)
        i = 0
        while i < len(self.running):
            request = self.running[i]
            count = self._chunk(request, budget)
            if count and self._make_room(request, count, plan):
                self._take(request, count, plan)
                budget -= count
            i += 1
        # 2. If nobody had to leave: waiting requests.
        if may_admit and not plan.preempted and self.waiting and self.free_seats:
            self.policy.sort_waiting(self.waiting, self.cache)
            self.admit(plan, budget)
            if self._aside:
                self.waiting = deque(sorted([*self.waiting, *self._aside], key=lambda request: request.id))
                self._aside = []
        probe.on and probe("scheduler.plan", plan=plan, scheduler=self)
        return plan

    def admit(self, plan: StepPlan, budget: int) -> None:
        """Let waiting requests in, from the front of the queue, while the token budget, seats and pages last. What the
        prefix cache knows of a request (`_look_up`) need not be computed.

        Whoever is first in the queue and cannot come in yet keeps the others waiting: nobody is overtaken for ever.
        """
        while self.free_seats and (request := self._front()):
            self._look_up(request)
            count = self._chunk(request, budget)
            if count == 0 or self._lacking(request, count) > self.num_available:
                probe.on and probe("scheduler.wait", request=request, why=self.why(request, budget))
                self._give_back(request)
                break
            probe.on and probe("scheduler.admit", request=request, count=count, scheduler=self)
            self.running.append(self.waiting.popleft())
            request.state, request.seat = RequestState.RUNNING, self.free_seats.pop()
            self._take(request, count, plan, Joining.of(request))
            budget -= count

    def commit(self, plan: StepPlan, result: StepResult) -> list[Request]:
        """Book what a step computed; the requests that got a token, some of them finished by it."""
        probe.on and probe("scheduler.commit", plan=plan, result=result, scheduler=self)
        self.advance(plan)
        advanced = []
        for row in plan.rows:
            request = self._alive.get(row.request_id)
            if request is None:  # aborted while the step ran, or found to have ended: this row was for nothing
                probe.on and probe("overlap.discard", row=row, plan=plan, result=result)
                continue
            if row.samples:
                token_id = result.tokens[request.id]
                request.in_flight -= 1
                probe.on and probe("request.token", request=request, token_id=token_id)
                request.append(token_id, result.logprobs.get(request.id))
                advanced.append(request)
            if request.finished:
                self.end(request)
            elif not self.config.reuse_kv:
                request.num_computed = 0
        return advanced

    def advance(self, plan: StepPlan) -> None:
        """Book a plan's tokens as computed, and those that it samples as on their way. Once is enough."""
        for row in () if plan.advanced else plan.rows:
            request = self._alive.get(row.request_id)
            if request is None:
                continue  # aborted meanwhile
            request.num_computed += row.count
            if row.samples:
                request.in_flight += 1
                request.last_on_device = True
        plan.advanced = True

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
        self.cache.forget()
        self.pool.reset()
        for request in self._alive.values():
            request.pages, request.node, request.num_shareable, request.num_computed = [], None, 0, 0
            request.seat, request.last_on_device, request.in_flight = -1, False, 0
        self._alive = {id: request for id, request in self._alive.items() if not request.finished}
        for request in self._alive.values():
            request.state = RequestState.WAITING
        self.running, self._aside = [], []
        self.waiting = deque(sorted(self._alive.values(), key=lambda request: request.id))
        self.free_seats = list(reversed(range(self.num_seats)))

    def flush_cache(self) -> None:
        """Forget all cached prefixes. RuntimeError unless nothing runs and nothing waits."""
        if not self.idle:
            raise RuntimeError(
                f"the prefix cache was not flushed: {len(self.running)} requests run and {len(self.waiting)} wait; "
                "let them end, or abort them"
            )
        self.cache.clear()

    def why(self, request: Request, budget: int | None = None) -> str:
        """In words: why a request is where it is."""
        if request.finished:
            return f"finished: {request.finish_reason}"
        if request.state is RequestState.RUNNING:
            return f"runs: {request.num_pending} tokens pending, {len(request.pages)} pages"
        if self.config.batching == "static" and self.running:
            return f"waits: static batching admits only when nothing runs, and {len(self.running)} run"
        if self._follows(request):
            first = request.leader and request.leader.id
            return f"waits: request {first} is computing the prompt, whose pages it will share"
        if not self.free_seats:
            return f"waits: all {self.num_seats} seats (max_num_seqs) are taken"
        budget = self.config.max_num_batched_tokens if budget is None else budget
        count = self._chunk(request, budget)
        if count == 0:
            return f"waits: {request.num_pending} tokens pending, {budget} left of the step's token budget"
        return f"waits: needs {self._lacking(request, count)} pages, {self.num_available} free"

    def check(self) -> None:
        """Recount all pages and seats; RuntimeError says what is wrong."""
        in_tree = self.cache.check(request.node for request in self.running)
        self.pool.check([*(request.pages for request in [*self.running, *self.waiting]), in_tree])
        seats = sorted([*self.free_seats, *(request.seat for request in self.running)])
        if seats != list(range(self.num_seats)):
            raise RuntimeError(f"seats are lost or taken twice: {seats}")

    def _chunk(self, request: Request, budget: int) -> int:
        """How many of the request's pending tokens fit into this step; 0 if it must sit this one out."""
        pending, limit = request.num_pending, self.config.long_prefill_token_threshold or budget
        if self.config.enable_chunked_prefill and self.config.reuse_kv:
            return min(pending, budget, limit)
        return pending if pending <= budget else 0  # all or nothing

    def _lacking(self, request: Request, count: int) -> int:
        """Pages that the request lacks to have ``count`` more tokens computed."""
        return max(pages_for(request.num_computed + count, self.pool.page_size) - len(request.pages), 0)

    def _make_room(self, request: Request, count: int, plan: StepPlan) -> bool:
        """Preempt the youngest until there are pages enough. False if that was the request itself."""
        while self._lacking(request, count) > self.num_available:
            victim = self.running[-1]
            probe.on and probe("scheduler.preempt", request=victim, for_request=request, scheduler=self)
            self._preempt(victim, plan)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request, plan: StepPlan) -> None:
        """Take all pages away; the request waits in front and recomputes everything, its generated tokens included."""
        self._leave(request)
        self._requeue(request)
        request.num_preemptions += 1
        self.num_preemptions += 1
        plan.preempted.append(request.id)

    def _requeue(self, request: Request) -> None:
        """Back to the front of the queue."""
        request.state = RequestState.WAITING
        self.waiting.appendleft(request)

    def _look_up(self, request: Request) -> None:
        """Give a request the pages that hold its first tokens already. At least one token is left to compute, because
        the logits after the last one are needed."""
        S = self.pool.page_size
        known = 0 if request.wants_prompt_logprobs else (request.num_tokens - 1) // S
        match = self.cache.match(request.token_ids(0, known * S), request.namespace)
        if match.pages:
            probe.on and probe("radix.match", request=request, pages=match.pages, node=match.node, cache=self.cache)
            self.cache.lock(match.node)
        elif not self.config.shares_prefixes:
            match.pages = self._pages_of_leader(request, known)
        self.pool.share(match.pages)
        request.pages, request.node = match.pages, match.node
        request.num_shareable = len(match.pages)
        request.num_computed = len(match.pages) * S

    def _front(self) -> Request | None:
        """Who is first in the queue. Requests that wait for another answer's prompt step aside until the step is
        planned: they need keep nobody waiting."""
        while self.waiting and self._follows(self.waiting[0]):
            self._aside.append(self.waiting.popleft())
        return self.waiting[0] if self.waiting else None

    def _follows(self, request: Request) -> bool:
        """Whether its prompt is just being computed, as that of another answer to it, whose pages it is to share."""
        leader = request.leader
        if leader is None or leader.state is not RequestState.RUNNING or not self.config.reuse_kv:
            return False
        return len(leader.pages) < pages_for(len(leader.prompt_ids), self.pool.page_size)

    def _pages_of_leader(self, request: Request, most: int) -> list[int]:
        """Up to ``most`` full pages of the prompt, from the other answer to it that computed them."""
        leader = request.leader
        if leader is None or not self.config.reuse_kv:
            return []
        return leader.pages[: min(most, leader.num_shareable, len(leader.prompt_ids) // self.pool.page_size)]

    def _take(self, request: Request, count: int, plan: StepPlan, joins: Joining | None = None) -> None:
        """Give the request its pages for this step, and write its row of the plan."""
        start, end = request.num_computed, request.num_computed + count
        if joins:
            self._count_admission(request)
        known = request.pages.copy() if joins else []  # found in the prefix cache: new to the runner
        new_pages: list[int] = []
        if lacking := self._lacking(request, count):
            self.cache.evict(lacking - self.pool.num_free)
            new_pages = self.pool.append(request.pages, end)
            probe.on and probe("kv.allocate", request=request, pages=new_pages, pool=self.pool)
        if count > 1 or end % self.pool.page_size <= 1:  # else this step fills no page, nor did the one before
            self._make_shareable(request, start, end)
        token_ids = [] if request.last_on_device and count == 1 else request.token_ids(start, count)
        samples = end == request.num_tokens
        pages, held = known + new_pages, len(request.pages)
        plan.rows.append(PlanRow(request.id, request.seat, start, count, token_ids, pages, held, samples, joins))

    def _count_admission(self, request: Request) -> None:
        self.cache.stats.count(request.num_tokens, request.num_computed)
        self.policy.admitted(request, self.waiting)
        if request.num_cached is None:
            request.num_cached = request.num_computed

    def _make_shareable(self, request: Request, start: int, end: int) -> None:
        """Let others find the request's pages that are full once this step is done, even others in the same step: every
        layer stores all its keys and values before it looks at any."""
        first, full = request.num_shareable, min(end, request.num_known) // self.pool.page_size
        S = self.pool.page_size
        if full > first and full > (start - 1) // S:  # one has become full just now; else it was tried before, in vain
            token_ids = request.token_ids(first * S, (full - first) * S)
            pages = request.pages[first:full]
            request.node, taken = self.cache.insert(request.node, token_ids, pages, request.namespace)
            request.num_shareable += taken

    def _leave(self, request: Request) -> None:
        """Give seat and pages back."""
        probe.on and probe("kv.free", request=request, pages=request.pages, pool=self.pool)
        self._give_back(request)
        self.running.remove(request)
        self.free_seats.append(request.seat)
        request.seat, request.last_on_device = -1, False

    def _give_back(self, request: Request) -> None:
        """Let go of the request's pages and its place in the prefix cache: without pages, nothing is computed."""
        self.cache.unlock(request.node)
        self.pool.free(request.pages)
        request.pages, request.node, request.num_shareable, request.num_computed = [], None, 0, 0
