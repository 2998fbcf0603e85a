"""The scheduler: who runs in the next step, and with how many tokens. Where they go, the `KVCacheManager` says.

There is no prefill phase and no decode phase. Every request has pending tokens (known, but without keys and values),
and a step computes some of them; a request whose last known token was computed gets a new one. vLLM V1 does the same.
"""

from minillm.config import EngineConfig
from minillm.kvcache.manager import KVCacheManager
from minillm.probe import probe
from minillm.request import Candidate, Request, RequestState
from minillm.scheduler.drafts import Proposer, may_draft
from minillm.scheduler.plan import Joining, PlanRow, StepPlan, StepResult
from minillm.scheduler.policy import POLICIES
from minillm.scheduler.queues import Queues


class Scheduler(Queues):
    """Waiting requests in the order of the policy, running ones in order of admission (oldest first)."""

    def __init__(self, config: EngineConfig, manager: KVCacheManager, proposer: Proposer | None = None) -> None:
        super().__init__(config, manager)
        self.proposer = proposer
        self.policy = POLICIES[config.scheduling_policy]()
        self.num_steps = 0
        self.num_preemptions = 0

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
                if self.proposer:
                    budget -= self._add_drafts(request, plan, budget)
            i += 1
        # 2. If nobody had to leave: waiting requests.
        if may_admit and not plan.preempted and self.waiting and self.free_seats:
            self.policy.sort_waiting(self.waiting, self.manager)
            self.admit(plan, budget)
        probe.on and probe("scheduler.plan", plan=plan, scheduler=self)
        return plan

    def admit(self, plan: StepPlan, budget: int) -> None:
        """Let waiting requests in, from the front of the queue, while the token budget, seats and pages last. What the
        prefix cache knows of a request (`KVCacheManager.look_up`) need not be computed.

        Whoever is first in the queue and cannot come in yet keeps the others waiting: nobody is overtaken for ever.
        """
        while self.free_seats and (request := self._front()):
            self.manager.look_up(request)
            count = self._chunk(request, budget)
            if count == 0 or self.manager.lacking(request, count) > self.manager.num_available:
                probe.on and probe("scheduler.wait", request=request, why=self.why(request, budget))
                self.manager.give_back(request)
                break
            probe.on and probe("scheduler.admit", request=request, count=count, scheduler=self)
            self.waiting.remove(request)
            self.running.append(request)
            request.state, request.place.seat = RequestState.RUNNING, self.free_seats.pop()
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
                token_ids, logprobs = result.tokens[request.id], result.logprobs.get(request.id)
                token_id = token_ids[0]
                request.in_flight -= 1
                probe.on and probe("request.token", request=request, token_id=token_id)
                request.append(token_id, logprobs[0] if logprobs else None)
                if len(token_ids) > 1:
                    self._append_run(request, token_ids, logprobs)
                advanced.append(request)
            if request.finished:
                self.end(request)
            elif not self.config.reuse_kv:
                request.place.num_computed = 0
        return advanced

    def advance(self, plan: StepPlan) -> None:
        """Book a plan's tokens as computed, and those that it samples as on their way. Once is enough. Drafts do not
        count: which of them are right, only `commit` knows."""
        for row in () if plan.advanced else plan.rows:
            request = self._alive.get(row.request_id)
            if request is None:
                continue  # aborted meanwhile
            place = request.place
            place.num_computed += row.count
            if row.samples:
                request.in_flight += 1
                place.last_on_device = True
            if row.draft_ids:
                place.num_computed -= len(row.draft_ids)
                place.last_on_device = False
        plan.advanced = True

    def why(self, request: Request, budget: int | None = None) -> str:
        """In words: why a request is where it is."""
        if request.finished:
            return f"finished: {request.finish_reason}"
        if request.state is RequestState.RUNNING:
            return f"runs: {request.num_pending} tokens pending, {len(request.pages)} pages"
        if self.config.batching == "static" and self.running:
            return f"waits: static batching admits only when nothing runs, and {len(self.running)} run"
        if first := self.manager.awaited(request):
            return f"waits: request {first.id} is computing the prompt, whose pages it will share"
        if not self.free_seats:
            return f"waits: all {self.num_seats} seats (max_num_seqs) are taken"
        budget = self.config.max_num_batched_tokens if budget is None else budget
        count = self._chunk(request, budget)
        if count == 0:
            return f"waits: {request.num_pending} tokens pending, {budget} left of the step's token budget"
        lacking, available = self.manager.lacking(request, count), self.manager.num_available
        return f"waits: needs {lacking} pages, {available} free"

    def _chunk(self, request: Request, budget: int) -> int:
        """How many of the request's pending tokens fit into this step; 0 if it must sit this one out."""
        pending, limit = request.num_pending, self.config.long_prefill_token_threshold or budget
        if self.config.enable_chunked_prefill and self.config.reuse_kv:
            return min(pending, budget, limit)
        return pending if pending <= budget else 0  # all or nothing

    def _make_room(self, request: Request, count: int, plan: StepPlan) -> bool:
        """Preempt the youngest until there are pages enough. False if that was the request itself."""
        while self.manager.lacking(request, count) > self.manager.num_available:
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

    def _add_drafts(self, request: Request, plan: StepPlan, budget: int) -> int:
        """Add to the request's row, the last of the plan, what may come after its last token, if that is all that is
        pending: as much as the budget, its answer and the pages have room for. How many it were.

        Nobody is preempted for drafts.
        """
        row = plan.rows[-1]
        if row.count > 1 or not row.samples or request.in_flight or not self.proposer or not may_draft(request):
            return 0
        most = min(budget, request.max_tokens - len(request.output_ids) - 1, self.manager.room(request) - 1)
        row.draft_ids = self.proposer.propose(request, most)[:most] if most > 0 else ()
        if row.draft_ids:
            row.token_ids = [*request.token_ids(row.start, 1), *row.draft_ids]
            row.count += len(row.draft_ids)
            row.new_pages = row.new_pages + self.manager.take(request, row.count)
            row.num_pages = len(request.pages)
            plan.num_drafts += len(row.draft_ids)
        return len(row.draft_ids)

    def _append_run(self, request: Request, token_ids: list[int], logprobs: list[list[Candidate]] | None) -> None:
        """Give a request the rest of its new tokens, of which it has the first, until one ends it: what lies behind
        that is dropped. The token before each was a draft, and the right one: its key and value are there."""
        for i, token_id in enumerate(token_ids[1:], 1):
            if request.finished:
                break
            request.place.num_computed += 1
            probe.on and probe("request.token", request=request, token_id=token_id)
            request.append(token_id, logprobs[i] if logprobs else None)

    def _take(self, request: Request, count: int, plan: StepPlan, joins: Joining | None = None) -> None:
        """Give the request its pages for this step, and write its row of the plan."""
        place = request.place
        start, end = place.num_computed, place.num_computed + count
        pages = self.manager.take(request, count)
        held = len(place.pages)
        if joins:
            self.manager.count(request)
            self.policy.admitted(request, self.waiting)
            pages = place.pages.copy()  # those found in the prefix cache are new to the runner too
        token_ids = [] if place.last_on_device and count == 1 else request.token_ids(start, count)
        samples = end == request.num_tokens
        plan.rows.append(PlanRow(request.id, place.seat, start, count, token_ids, pages, held, samples, joins))
