"""Checkpoint 04: who is let in. Oracle: queues written down by hand, request by request."""

from typing import Any

from exercises import jobs_for, tokens_of_hugging_face
from tiny import Oracle

from minillm.config import EngineConfig
from minillm.kvcache.manager import KVCacheManager
from minillm.request import Request, RequestState, SamplingParams
from minillm.scheduler.plan import StepPlan
from minillm.scheduler.scheduler import Scheduler


def queue(prompts: list[int], pages: int = 100, **settings: Any) -> Scheduler:
    """A scheduler with waiting requests of these prompt lengths; pages hold 4 tokens."""
    config = EngineConfig(
        max_model_len=64, page_size=4, **{"max_num_seqs": 8, "max_num_batched_tokens": 64, **settings}
    )
    scheduler = Scheduler(config, KVCacheManager(pages, 4))
    for id, length in enumerate(prompts):
        scheduler.add(Request(id, list(range(length)), SamplingParams(max_tokens=4), max_tokens=1, seed=70 + id))
    return scheduler


def knowing(prompts: list[int], pages: int) -> Scheduler:
    """The same, with a prefix cache, in which the tokens of a request 0 are known: 9 of them, so two pages of 4."""
    config = EngineConfig(max_model_len=64, page_size=4, max_num_seqs=8, max_num_batched_tokens=64)
    scheduler = Scheduler(config, KVCacheManager(pages, 4, shares_prefixes=True))
    for id, length in enumerate([9, *prompts]):
        scheduler.add(Request(id, list(range(length)), SamplingParams(max_tokens=4), max_tokens=1, seed=70 + id))
    first = scheduler.waiting[0]
    scheduler.manager.look_up(first)
    scheduler.manager.take(first, 9)
    scheduler.manager.give_back(first)
    scheduler.waiting.remove(first)
    scheduler._alive.pop(0)
    return scheduler


def admit(scheduler: Scheduler, budget: int = 64) -> StepPlan:
    plan = StepPlan(1)
    scheduler.admit(plan, budget)
    return plan


def came_in(scheduler: Scheduler, plan: StepPlan, right: list[tuple[int, int]], left: list[int], why: str) -> None:
    """``right``: (request, tokens to compute) of each row of the plan. ``left``: who still waits, in order."""
    got = [(row.request_id, row.count) for row in plan.rows]
    assert got == right, f"{why}: the plan computes (request, tokens) {got}, and {right} is right"
    running, waiting = [r.id for r in scheduler.running], [r.id for r in scheduler.waiting]
    assert running == [id for id, _ in right], f"{why}: requests {running} run, and {[id for id, _ in right]} should"
    assert waiting == left, f"{why}: requests {waiting} wait, and {left} should, in this order"


class TestAdmit:
    """4.1"""

    def test_first_come_first_served(self) -> None:
        scheduler = queue([5, 3, 9])
        came_in(scheduler, admit(scheduler), [(0, 5), (1, 3), (2, 9)], [], "there is room for all three requests")

    def test_who_comes_in_has_a_seat_a_state_and_its_pages(self) -> None:
        scheduler = queue([5, 3])
        plan = admit(scheduler)
        seats = [request.seat for request in scheduler.running]
        assert seats == [0, 1], f"the free seats were [7, ..., 1, 0], top last: seats {seats} were taken, not [0, 1]"
        for request, pages in zip(scheduler.running, ([0, 1], [2])):
            assert request.state is RequestState.RUNNING, f"request {request.id} runs, but its state is {request.state}"
            assert request.pages == pages, f"request {request.id} holds pages {request.pages}, and {pages} is right"
        for row in plan.rows:
            assert row.joins and row.joins.seed == 70 + row.request_id, (
                f"request {row.request_id} takes its seat in this step, so its row must bring its sampling settings "
                f"and its seed {70 + row.request_id} (joins); it brings {row.joins}"
            )
        scheduler.check()

    def test_no_more_than_there_are_seats(self) -> None:
        scheduler = queue([2, 2, 2], max_num_seqs=2)
        came_in(scheduler, admit(scheduler), [(0, 2), (1, 2)], [2], "3 requests, 2 seats")

    def test_the_budget_is_shared(self) -> None:
        scheduler = queue([6, 6, 6])
        came_in(scheduler, admit(scheduler, budget=10), [(0, 6), (1, 4)], [2], "3 prompts of 6 tokens, a budget of 10")

    def test_without_chunks_a_prompt_that_does_not_fit_waits(self) -> None:
        scheduler = queue([6, 6], enable_chunked_prefill=False)
        why = "2 prompts of 6 tokens, a budget of 10, no chunks"
        came_in(scheduler, admit(scheduler, budget=10), [(0, 6)], [1], why)

    def test_no_budget_no_admission(self) -> None:
        scheduler = queue([3])
        came_in(scheduler, admit(scheduler, budget=0), [], [0], "the running requests have used up the budget")

    def test_no_more_than_there_are_pages(self) -> None:
        scheduler = queue([8, 8, 8], pages=5)
        came_in(scheduler, admit(scheduler), [(0, 8), (1, 8)], [2], "3 prompts of 2 pages each, 5 pages are free")

    def test_the_last_page_may_be_taken(self) -> None:
        scheduler = queue([8, 8], pages=4)
        came_in(scheduler, admit(scheduler), [(0, 8), (1, 8)], [], "2 prompts of 2 pages each, 4 pages are free")

    def test_nobody_is_overtaken(self) -> None:
        scheduler = queue([4, 12, 4], pages=3)
        why = "request 1 needs 3 pages, 2 are free; request 2 needs 1, but came later"
        came_in(scheduler, admit(scheduler), [(0, 4)], [1, 2], why)

    def test_what_the_prefix_cache_knows_is_not_computed_again(self) -> None:
        scheduler = knowing([9], pages=8)
        plan = admit(scheduler)
        request = scheduler.running[0] if scheduler.running else scheduler.waiting[0]
        why = (
            "request 1 has the 9 tokens that request 0 had, and the prefix cache has 2 pages with the first 8 of them: "
            "self.manager.look_up(request) gives it those, before it is asked how many tokens fit"
        )
        got = [(row.request_id, row.start, row.count) for row in plan.rows]
        assert got == [(1, 8, 1)], f"{why}; the plan has (request, start, tokens) {got}, and [(1, 8, 1)] is right"
        assert request.pages[:2] == [0, 1], f"{why}; request 1 has pages {request.pages}, and [0, 1, ...] is right"
        scheduler.check()

    def test_who_cannot_come_in_holds_nothing(self) -> None:
        scheduler = knowing([9], pages=8)
        plan = admit(scheduler, budget=0)
        came_in(scheduler, plan, [], [1], "the running requests have used up the budget")
        pages = scheduler.waiting[0].pages
        assert pages == [], (
            f"request 1 cannot come in, so what self.manager.look_up gave it goes back (self.manager.give_back): it "
            f"holds pages {pages} while it waits, and [] is right"
        )
        scheduler.check()

    def test_who_runs_already_stays_first(self) -> None:
        scheduler = queue([3, 4])
        late = scheduler.waiting.pop()
        admit(scheduler)
        scheduler.waiting.append(late)
        plan = admit(scheduler)
        running = [request.id for request in scheduler.running]
        assert running == [0, 1], f"request 1 comes in a step after request 0: {running} run, and [0, 1] is right"
        assert [row.request_id for row in plan.rows] == [1], "only request 1 comes in, so only it gets a row from here"

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(gap=2), page_size=4, num_pages=14, max_num_seqs=3)
        tokens_of_hugging_face(oracle, jobs_for(), page_size=4, num_pages=64, batching="static", max_num_seqs=2)
