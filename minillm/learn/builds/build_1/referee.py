"""The referee of build 1: does a plan keep the rules of the contract? Whatever does not is told with its step."""

from dataclasses import dataclass, field

from minillm.kvcache.pages import PagePool
from minillm.request import Request
from minillm.scheduler.plan import PlanRow, StepPlan


@dataclass
class Held:
    """What a request has by the plans so far: its seat, its pages, and how many of its tokens are computed."""

    seat: int
    pages: list[int] = field(default_factory=list)
    computed: int = 0


class Referee:
    """held: by request id, in order of admission. AssertionError says which rule was broken, where and how."""

    def __init__(self, pool: PagePool, num_seats: int, budget: int) -> None:
        self.num_pages, self.page_size = pool.num_pages, pool.page_size
        self.num_seats, self.budget = num_seats, budget
        self.held: dict[int, Held] = {}

    def left(self, request: Request) -> None:
        """It has ended: what it had is free."""
        self.held.pop(request.id, None)

    def planned(self, plan: StepPlan, step: int, alive: dict[int, Request]) -> None:
        at = f"step {step}"
        assert isinstance(plan, StepPlan), f"{at}: schedule gives a StepPlan, this is {plan!r}"
        assert plan.step == step, f"{at}: the plan says that it is step {plan.step}"
        for id in plan.preempted:
            assert id in self.held, f"{at}: request {id} is preempted, and it does not run"
            del self.held[id]
        told = ", ".join(f"{id} ({request.num_pending} tokens pending)" for id, request in alive.items())
        assert plan.rows, f"{at} computes nothing, and these requests are there: {told}. Nothing will ever change"
        total = plan.num_tokens
        assert total <= self.budget, f"{at} computes {total} tokens, and the budget is {self.budget}"
        seen: set[int] = set()
        for row in plan.rows:
            who = f"{at}, request {row.request_id}"
            assert row.request_id in alive, f"{who}: there is no such request; these are there: {sorted(alive)}"
            assert row.request_id not in seen, f"{who}: it has two rows in one plan"
            assert row.request_id not in plan.preempted, f"{who}: it is preempted and computed in one step"
            seen.add(row.request_id)
            self._seat(who, row)
            self._tokens(who, row, alive[row.request_id])
            self._pages(who, row)

    def _seat(self, who: str, row: PlanRow) -> None:
        """Whoever comes in gets a free one, and brings its settings; whoever runs keeps its own."""
        one = self.held.get(row.request_id)
        if one is not None:
            assert row.seat == one.seat, f"{who}: it is at seat {row.seat} now, and seat {one.seat} is its own"
            assert row.joins is None, f"{who}: it joins, and it has its seat already"
            return
        assert 0 <= row.seat < self.num_seats, f"{who}: there is no seat {row.seat}; the last is {self.num_seats - 1}"
        taken = {held.seat: id for id, held in self.held.items()}
        assert row.seat not in taken, f"{who}: it sits at seat {row.seat}, where request {taken.get(row.seat)} sits"
        assert row.joins is not None, f"{who}: it takes its seat, so its row says joins=Joining.of(request)"
        self.held[row.request_id] = Held(row.seat)

    def _tokens(self, who: str, row: PlanRow, request: Request) -> None:
        """They go on where the last row ended, and are named."""
        computed, end = self.held[row.request_id].computed, row.start + row.count
        begun = "nothing of it is computed" if not computed else f"{computed} are computed"
        assert row.start == computed, f"{who}: its row begins with token {row.start}, and {begun}"
        assert row.count > 0, f"{who}: its row computes {row.count} tokens"
        assert end <= request.num_tokens, f"{who}: its row ends with token {end}, and it has {request.num_tokens}"
        last = end == request.num_tokens
        because = "its last known token is" if last else f"tokens {end} to {request.num_tokens - 1} are not"
        assert row.samples == last, f"{who}: samples is {row.samples}, and {because} among the row's"
        right = request.token_ids(row.start, row.count)
        assert list(row.token_ids) == right, f"{who}: tokens {row.start} to {end - 1} are {right}, not {row.token_ids}"

    def _pages(self, who: str, row: PlanRow) -> None:
        """Each is its own alone, and there are enough."""
        one = self.held[row.request_id]
        for page in row.new_pages:
            assert 0 <= page < self.num_pages, f"{who}: there is no page {page}; the last is {self.num_pages - 1}"
            owner = next((id for id, held in self.held.items() if page in held.pages), None)
            whose = "it has it already" if owner == row.request_id else f"request {owner} holds it"
            assert owner is None, f"{who}: page {page} is new to it, and {whose}"
            one.pages.append(page)
        count, end = len(one.pages), row.start + row.count
        assert row.num_pages == count, f"{who}: num_pages is {row.num_pages}, and with its new pages it has {count}"
        room = count * self.page_size
        assert end <= room, f"{who}: its {count} pages have room for {room} tokens, and the step computes up to {end}"

    def committed(
        self, plan: StepPlan, advanced: list[Request], alive: dict[int, Request], known: dict[int, int]
    ) -> None:
        """Whether the scheduler's books say what the plans say. known: tokens of each request before."""
        at = f"step {plan.step}, after commit"
        for row in plan.rows:
            if row.request_id in self.held:
                self.held[row.request_id].computed += row.count
        sampled = {row.request_id for row in plan.rows if row.samples}
        got = [request.id for request in advanced or []]
        assert sorted(got) == sorted(sampled), f"{at}: requests {sorted(sampled)} got a token, commit gives {got}"
        for id, request in alive.items():
            new, right = request.num_known - known[id], int(id in sampled)
            assert new == right, f"{at}, request {id}: it has {new} new tokens, and {right} came out for it"
            place, one = request.place, self.held.get(id)
            if request.finished or one is None:
                state = "it has finished" if request.finished else "it does not run"
                assert not place.pages, f"{at}, request {id}: {state}, and its place still has pages {place.pages}"
                assert place.num_computed == 0, f"{at}, request {id}: {state}; request.leave() empties its place"
                continue
            assert place.num_computed == one.computed, (
                f"{at}, request {id}: its place says that {place.num_computed} tokens are computed; the plans have "
                f"computed {one.computed}"
            )
            assert place.pages == one.pages, f"{at}, request {id}: its place has pages {place.pages}, not {one.pages}"
            assert place.seat == one.seat, f"{at}, request {id}: its place has seat {place.seat}, not {one.seat}"

    def count_pages(self, num_free: int, at: str) -> None:
        """Those that requests hold and those that are free are all there are."""
        held = {id: len(one.pages) for id, one in self.held.items() if one.pages}
        free = self.num_pages - sum(held.values())
        whose = f"requests {sorted(held)} hold {sum(held.values())}" if held else "nobody holds any"
        wrong = "lost" if num_free < free else "free and held at once"
        assert num_free == free, (
            f"{at}: {whose} of {self.num_pages} pages, and num_free is {num_free}: {abs(free - num_free)} are {wrong}"
        )
