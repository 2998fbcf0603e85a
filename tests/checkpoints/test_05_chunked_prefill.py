"""Checkpoint 05: the budget's split, and what happens when pages run out. Oracle: the rules, written down by hand."""

from typing import Any

from exercises import jobs_for, tokens_of_hugging_face
from tiny import Oracle

from minillm.config import EngineConfig
from minillm.kvcache.manager import KVCacheManager
from minillm.request import Place, Request, RequestState, SamplingParams
from minillm.scheduler.plan import StepPlan, StepResult
from minillm.scheduler.scheduler import Scheduler

TIGHT: dict[str, Any] = {"page_size": 4, "num_pages": 9, "max_num_batched_tokens": 12}  # 36 slots: not for all at once


def scheduler_for(pages: int = 100, **settings: Any) -> Scheduler:
    config = EngineConfig(max_model_len=64, page_size=4, **{"max_num_batched_tokens": 64, **settings})
    return Scheduler(config, KVCacheManager(pages, 4))


def request(id: int, prompt: int, output: int = 0, computed: int = 0) -> Request:
    """A request of so many prompt tokens, that has written some already, and so many of both computed."""
    made = Request(id, list(range(prompt)), SamplingParams(), max_tokens=8, seed=id, place=Place(num_computed=computed))
    made.output_ids = list(range(100, 100 + output))
    return made


class TestChunk:
    """5.1"""

    @staticmethod
    def chunk_is(right: int, why: str, pending: int, budget: int, computed: int = 0, **settings: Any) -> None:
        scheduler = scheduler_for(**settings)
        got = scheduler._chunk(request(0, pending + computed, computed=computed), budget)
        switched = "".join(f", {name}={value}" for name, value in settings.items())
        assert got == right, (
            f"{pending} tokens pending, {budget} left of the budget{switched}: {got} tokens fit into this step, and "
            f"{right} is right: {why}"
        )

    def test_a_prompt_that_fits_is_taken_whole(self) -> None:
        self.chunk_is(20, "all of them fit", pending=20, budget=30)
        self.chunk_is(20, "they fit exactly", pending=20, budget=20)

    def test_a_long_prompt_is_cut_at_the_budget(self) -> None:
        self.chunk_is(30, "the rest comes in later steps", pending=50, budget=30)
        self.chunk_is(0, "nothing is left for it", pending=50, budget=0)

    def test_only_what_is_pending_counts(self) -> None:
        self.chunk_is(10, "30 of its 40 tokens are computed already", pending=10, budget=30, computed=30)
        self.chunk_is(1, "a request that decodes has one token pending", pending=1, budget=30, computed=39)

    def test_a_threshold_leaves_room_for_others(self) -> None:
        self.chunk_is(8, "no prompt may take more", pending=50, budget=30, long_prefill_token_threshold=8)
        self.chunk_is(5, "the budget is smaller still", pending=50, budget=5, long_prefill_token_threshold=8)
        self.chunk_is(3, "it does not reach the threshold", pending=3, budget=30, long_prefill_token_threshold=8)
        self.chunk_is(30, "a threshold of 0 is none", pending=50, budget=30, long_prefill_token_threshold=0)

    def test_without_chunks_it_is_all_or_nothing(self) -> None:
        self.chunk_is(0, "it waits for a step that takes it whole", pending=31, budget=30, enable_chunked_prefill=False)
        self.chunk_is(30, "it fits exactly", pending=30, budget=30, enable_chunked_prefill=False)

    def test_what_is_forgotten_cannot_be_cut(self) -> None:
        self.chunk_is(0, "an earlier chunk would be forgotten", pending=31, budget=30, reuse_kv=False)
        self.chunk_is(12, "it fits whole", pending=12, budget=30, reuse_kv=False)

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(), max_num_batched_tokens=6)
        tokens_of_hugging_face(oracle, jobs_for(), max_num_batched_tokens=30, long_prefill_token_threshold=4)
        tokens_of_hugging_face(oracle, jobs_for(), reuse_kv=False)


def three_running(pages: int = 6) -> Scheduler:
    """Requests 0, 1 and 2 run, each with one page of 4 computed tokens; request 3 waits. The other pages are free."""
    scheduler = scheduler_for(pages, max_num_seqs=3)
    for id in range(4):
        scheduler.add(request(id, 4))
    plan = scheduler.schedule()
    tokens = {row.request_id: [50 + row.request_id] for row in plan.rows}
    scheduler.commit(plan, StepResult(tokens))
    assert [r.id for r in scheduler.running] == [0, 1, 2]
    return scheduler


class TestPreempt:
    """5.2"""

    def test_its_pages_and_its_seat_are_free_again(self) -> None:
        scheduler = three_running()
        victim, pages, seat = scheduler.running[1], list(scheduler.running[1].pages), scheduler.running[1].seat
        scheduler._preempt(victim, StepPlan(2))
        assert set(pages) <= set(scheduler.pool.free_pages), (
            f"request 1 had pages {pages}; free: {scheduler.pool.free_pages}"
        )
        assert victim.pages == [], f"request 1 was preempted, but its page table still has pages {victim.pages}"
        assert seat in scheduler.free_seats, (
            f"request 1's seat {seat} is not among the free ones {scheduler.free_seats}"
        )
        running = [r.id for r in scheduler.running]
        assert running == [0, 2], f"request 1 was preempted: requests {running} run, and [0, 2] is right"
        scheduler.check()

    def test_it_waits_before_all_others(self) -> None:
        scheduler = three_running()
        victim = scheduler.running[2]
        scheduler._preempt(victim, StepPlan(2))
        waiting = [r.id for r in scheduler.waiting]
        assert waiting == [2, 3], f"request 2 was preempted, request 3 never ran: {waiting} wait, and [2, 3] is right"
        assert victim.state is RequestState.WAITING, f"request 2 waits, but its state is {victim.state}"

    def test_it_recomputes_everything_and_forgets_no_token(self) -> None:
        scheduler = three_running()
        victim = scheduler.running[2]
        scheduler._preempt(victim, StepPlan(2))
        assert victim.output_ids == [52], f"request 2 had written [52], now its output is {victim.output_ids}"
        assert victim.num_pending == 5, (
            f"request 2 has 4 + 1 tokens and no pages, so all 5 are pending; num_pending is {victim.num_pending} "
            f"(num_computed {victim.num_computed})"
        )

    def test_it_is_counted_and_the_plan_tells_of_it(self) -> None:
        scheduler, plan = three_running(), StepPlan(2)
        for victim in (scheduler.running[2], scheduler.running[1]):
            scheduler._preempt(victim, plan)
            assert victim.num_preemptions == 1, (
                f"request {victim.id} was preempted {victim.num_preemptions} times, not once"
            )
        assert plan.preempted == [2, 1], f"the plan says that {plan.preempted} were preempted, and [2, 1] is right"
        assert scheduler.num_preemptions == 2, (
            f"two requests were preempted: the scheduler has counted {scheduler.num_preemptions} preemptions of 2"
        )

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(), **TIGHT)


class TestMakeRoom:
    """5.3"""

    @staticmethod
    def room(pages: int, who: int, count: int, kept: list[int], answer: bool, why: str) -> None:
        """Request ``who`` of three asks for pages for ``count`` more tokens. ``kept``: who runs afterwards."""
        scheduler, plan = three_running(pages), StepPlan(2)
        asking = scheduler.running[who]
        got = scheduler._make_room(asking, count, plan)
        running, gone = [r.id for r in scheduler.running], [id for id in (2, 1, 0) if id not in kept]
        assert running == kept, f"{why}: requests {running} go on, and {kept} is right"
        assert plan.preempted == gone, f"{why}: {plan.preempted} were preempted, and {gone}, youngest first, is right"
        assert got is answer, (
            f"{why}: the answer is {got}, and {answer} is right (is there room for request {who} now?)"
        )
        scheduler.check()

    def test_with_pages_enough_nobody_leaves(self) -> None:
        self.room(6, who=0, count=8, kept=[0, 1, 2], answer=True, why="request 0 needs 2 pages, 3 are free")

    def test_the_last_free_page_is_enough(self) -> None:
        self.room(4, who=1, count=4, kept=[0, 1, 2], answer=True, why="request 1 needs 1 page, 1 is free")

    def test_the_youngest_leaves(self) -> None:
        self.room(3, who=0, count=1, kept=[0, 1], answer=True, why="request 0 needs 1 page, none is free")

    def test_as_many_leave_as_it_takes(self) -> None:
        self.room(3, who=0, count=8, kept=[0], answer=True, why="request 0 needs 2 pages, none is free")

    def test_the_youngest_may_be_the_one_that_asks(self) -> None:
        self.room(
            3, who=2, count=1, kept=[0, 1], answer=False, why="request 2, the youngest, needs 1 page, none is free"
        )

    def test_a_token_that_fits_into_the_last_page_needs_none(self) -> None:
        scheduler, plan = scheduler_for(pages=3), StepPlan(2)
        for id in range(3):
            scheduler.add(request(id, 3))
        scheduler.schedule()
        for running in scheduler.running:
            running.place.num_computed = 3
        got = scheduler._make_room(scheduler.running[0], 1, plan)
        assert got is True and plan.preempted == [], (
            f"request 0 has 3 tokens in a page of 4, so its 4th needs no page: {plan.preempted} were preempted"
        )

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(), **TIGHT)
        tokens_of_hugging_face(oracle, jobs_for(gap=1), **TIGHT)
