"""One possible answer to build 1: oldest first, pages as they are needed, the youngest gives way."""

from collections import deque

from minillm.request import Request
from minillm.scheduler.plan import Joining, PlanRow, StepPlan, StepResult


class Pool:
    """A free list."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.free = list(reversed(range(num_pages)))

    def lacks(self, request: Request, count: int) -> int:
        """How many pages are missing, more than there are free, to compute ``count`` more tokens."""
        return self.wanted(request, count) - len(self.free)

    def wanted(self, request: Request, count: int) -> int:
        """Pages that a request needs beside its own to compute ``count`` more tokens."""
        tokens = request.place.num_computed + count
        return -(-tokens // self.page_size) - len(request.place.pages)

    def take(self, request: Request, count: int) -> list[int]:
        """Give them to it; the new ones."""
        new = [self.free.pop() for _ in range(self.wanted(request, count))]
        request.place.pages += new
        return new


class Scheduler:
    """Running requests, oldest first, then waiting ones, first come first served."""

    def __init__(self, num_pages: int, page_size: int, num_seats: int, budget: int) -> None:
        self.pool, self.budget = Pool(num_pages, page_size), budget
        self.seats = list(range(num_seats))
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()

    @property
    def num_free(self) -> int:
        return len(self.pool.free)

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        if request in self.running:
            self._leave(request)
        elif request in self.waiting:
            self.waiting.remove(request)

    def schedule(self, step: int) -> StepPlan:
        plan, left = StepPlan(step), self.budget
        for request in list(self.running):
            if request not in self.running:
                continue  # it had to leave for an older one
            count = min(request.num_pending, left)
            if count and self._make_room(request, count, plan):
                self._compute(request, count, plan)
                left -= count
        while self.waiting and self.seats and left and not plan.preempted:
            request = self.waiting[0]
            count = min(request.num_pending, left)
            if self.pool.lacks(request, count) > 0:
                break  # and nobody overtakes it
            self.running.append(self.waiting.popleft())
            request.place.seat = self.seats.pop()
            self._compute(request, count, plan, Joining.of(request))
            left -= count
        return plan

    def commit(self, plan: StepPlan, result: StepResult) -> list[Request]:
        running = {request.id: request for request in self.running}
        advanced = []
        for row in plan.rows:
            request = running[row.request_id]
            request.place.num_computed += row.count
            if row.samples:
                request.append(result.tokens[row.request_id][0], result.logprobs.get(row.request_id, [None])[0])
                advanced.append(request)
            if request.finished:
                self._leave(request)
        return advanced

    def _make_room(self, request: Request, count: int, plan: StepPlan) -> bool:
        """Send the youngest away until there are pages enough. False if that was the request itself."""
        while self.pool.lacks(request, count) > 0:
            youngest = self.running[-1]
            self._leave(youngest)
            self.waiting.appendleft(youngest)
            plan.preempted.append(youngest.id)
            if youngest is request:
                return False
        return True

    def _compute(self, request: Request, count: int, plan: StepPlan, joins: Joining | None = None) -> None:
        """The request's row of the plan, and the pages for it."""
        place, start = request.place, request.place.num_computed
        new = self.pool.take(request, count)
        samples = start + count == request.num_tokens
        tokens = request.token_ids(start, count)
        plan.rows.append(PlanRow(request.id, place.seat, start, count, tokens, new, len(place.pages), samples, joins))

    def _leave(self, request: Request) -> None:
        """Its seat and pages are free again."""
        self.running.remove(request)
        self.pool.free += request.place.pages
        self.seats.append(request.place.seat)
        request.leave()
