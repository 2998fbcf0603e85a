"""The scheduler's rules, one by one. It deals in ints only, so no model is needed: each new token is 7."""

from dataclasses import replace
from typing import Any

import pytest

from minillm.config import EngineConfig
from minillm.kvcache.manager import KVCacheManager
from minillm.request import Request, RequestState, SamplingParams
from minillm.scheduler.plan import StepPlan, StepResult
from minillm.scheduler.scheduler import Scheduler


def make_scheduler(num_pages: int = 100, **settings: Any) -> Scheduler:
    config = EngineConfig.from_settings(**{"page_size": 4, "max_model_len": 64, **settings})
    assert isinstance(config.page_size, int)
    return Scheduler(config, KVCacheManager(num_pages, config.page_size, reuse_kv=config.reuse_kv))


def add(scheduler: Scheduler, id: int, prompt: int, max_tokens: int = 8) -> Request:
    params = SamplingParams(temperature=0, max_tokens=max_tokens)
    request = Request(id, list(range(100, 100 + prompt)), params, max_tokens, seed=0)
    scheduler.add(request)
    return request


def commit(scheduler: Scheduler, plan: StepPlan) -> list[Request]:
    advanced = scheduler.commit(plan, StepResult({row.request_id: [7] for row in plan.rows if row.samples}))
    scheduler.check()
    return advanced


def step(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.schedule()
    scheduler.check()
    commit(scheduler, plan)
    return plan


def shares(plan: StepPlan) -> list[tuple[int, int, int]]:
    """(request, start, count) of each row."""
    return [(row.request_id, row.start, row.count) for row in plan.rows]


def test_prefill_then_decode() -> None:
    scheduler = make_scheduler()
    request = add(scheduler, 0, prompt=5, max_tokens=3)
    plans = [step(scheduler) for _ in range(3)]
    assert [shares(plan) for plan in plans] == [[(0, 0, 5)], [(0, 5, 1)], [(0, 6, 1)]]
    assert [plan.rows[0].token_ids for plan in plans] == [[100, 101, 102, 103, 104], [], []]  # then it is on the device
    assert [len(plan.rows[0].new_pages) for plan in plans] == [2, 0, 0]
    assert [plan.rows[0].joins is not None for plan in plans] == [True, False, False]
    assert [plan.step for plan in plans] == [1, 2, 3]
    assert request.finished and request.finish_reason == "length" and request.output_ids == [7, 7, 7]
    assert scheduler.idle and scheduler.pool.num_used == 0


def test_running_requests_come_first_oldest_first_then_waiting_ones() -> None:
    scheduler = make_scheduler()
    for id in range(3):
        add(scheduler, id, prompt=3)
        step(scheduler)
    add(scheduler, 3, prompt=3)
    add(scheduler, 4, prompt=3)
    assert [share[0] for share in shares(step(scheduler))] == [0, 1, 2, 3, 4]


def test_the_token_budget_is_shared_in_that_order() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=10)
    add(scheduler, 0, prompt=7)
    add(scheduler, 1, prompt=7)
    add(scheduler, 2, prompt=7)
    assert shares(step(scheduler)) == [(0, 0, 7), (1, 0, 3)]
    assert shares(step(scheduler)) == [(0, 7, 1), (1, 3, 4), (2, 0, 5)]
    assert shares(step(scheduler)) == [(0, 8, 1), (1, 7, 1), (2, 5, 2)]


def test_only_the_step_that_computes_the_last_known_token_samples() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=4)
    request = add(scheduler, 0, prompt=9)
    plans = [step(scheduler) for _ in range(3)]
    assert [plan.rows[0].samples for plan in plans] == [False, False, True]
    assert plans[2].rows[0].token_ids == [108] and request.output_ids == [7]


def test_a_budget_smaller_than_the_batch_serves_the_oldest() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=2)
    for id in range(3):
        add(scheduler, id, prompt=1, max_tokens=3)
    assert shares(step(scheduler)) == [(0, 0, 1), (1, 0, 1)]
    assert shares(step(scheduler)) == [(0, 1, 1), (1, 1, 1)]
    assert shares(step(scheduler)) == [(0, 2, 1), (1, 2, 1)]
    assert shares(step(scheduler)) == [(2, 0, 1)]


def test_one_prompt_may_take_only_so_many_tokens_of_a_step() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=20, long_prefill_token_threshold=6)
    add(scheduler, 0, prompt=15)
    add(scheduler, 1, prompt=4)
    add(scheduler, 2, prompt=15)
    assert shares(step(scheduler)) == [(0, 0, 6), (1, 0, 4), (2, 0, 6)]
    assert shares(step(scheduler)) == [(0, 6, 6), (1, 4, 1), (2, 6, 6)]
    assert shares(step(scheduler)) == [(0, 12, 3), (1, 5, 1), (2, 12, 3)]


def test_without_chunked_prefill_a_prompt_waits_for_a_step_that_takes_it_whole() -> None:
    scheduler = make_scheduler(enable_chunked_prefill=False, max_num_batched_tokens=64)
    add(scheduler, 0, prompt=40)
    add(scheduler, 1, prompt=30)
    add(scheduler, 2, prompt=2)  # would fit, but nobody overtakes
    assert shares(step(scheduler)) == [(0, 0, 40)]
    assert shares(step(scheduler)) == [(0, 40, 1), (1, 0, 30), (2, 0, 2)]


def test_out_of_pages_the_youngest_gives_all_of_its_pages_back() -> None:
    scheduler = make_scheduler(num_pages=5)
    old, middle, young = (add(scheduler, id, prompt=4) for id in range(3))
    assert shares(step(scheduler)) == [(0, 0, 4), (1, 0, 4), (2, 0, 4)]
    plan = step(scheduler)  # all need a second page, two are left
    assert plan.preempted == [2] and shares(plan) == [(0, 4, 1), (1, 4, 1)]
    assert young.state is RequestState.WAITING and young.pages == [] and young.num_computed == 0 and young.seat == -1
    assert young.num_preemptions == 1 == scheduler.num_preemptions
    assert [len(request.pages) for request in (old, middle)] == [2, 2]


def test_a_request_that_is_itself_the_youngest_is_preempted_itself() -> None:
    scheduler = make_scheduler(num_pages=3)
    add(scheduler, 0, prompt=3)
    young = add(scheduler, 1, prompt=8, max_tokens=4)
    step(scheduler)
    plan = step(scheduler)  # request 0 has room for one more token, request 1 needs a page and there is none
    assert shares(plan) == [(0, 3, 1)] and plan.preempted == [1] and young.num_preemptions == 1
    assert [request.id for request in scheduler.running] == [0]


def test_nobody_is_admitted_in_a_step_in_which_somebody_had_to_leave() -> None:
    scheduler = make_scheduler(num_pages=4)
    add(scheduler, 0, prompt=4)
    add(scheduler, 1, prompt=12, max_tokens=2)
    step(scheduler)
    add(scheduler, 2, prompt=1, max_tokens=1)
    plan = step(scheduler)  # request 0 needs a page: request 1 frees three, of which two stay free
    assert plan.preempted == [1] and shares(plan) == [(0, 4, 1)]
    assert scheduler.pool.num_free == 2


def test_the_preempted_stand_first_in_the_queue_in_their_old_order() -> None:
    scheduler = make_scheduler(num_pages=4)
    first = add(scheduler, 0, prompt=12, max_tokens=5)
    step(scheduler)
    assert len(first.pages) == 3
    scheduler.abort(first)
    old = add(scheduler, 1, prompt=3, max_tokens=14)
    for id in (2, 3, 4):
        add(scheduler, id, prompt=4, max_tokens=1 if id == 2 else 8)
    assert shares(step(scheduler)) == [(1, 0, 3), (2, 0, 4), (3, 0, 4), (4, 0, 4)]
    add(scheduler, 5, prompt=1)
    # Request 2 is done, so one page is free: 3 takes it, 4 finds none and leaves.
    assert step(scheduler).preempted == [4]
    assert [request.id for request in scheduler.waiting] == [4, 5]
    while not old.finished:
        step(scheduler)
        order = [request.id for request in scheduler.waiting]
        assert order == sorted(order)


def test_a_preempted_request_computes_its_generated_tokens_again() -> None:
    scheduler = make_scheduler(num_pages=4)
    old, young = add(scheduler, 0, prompt=6, max_tokens=4), add(scheduler, 1, prompt=6)
    step(scheduler)
    step(scheduler)
    step(scheduler)  # both have two pages, full: one must leave
    assert step(scheduler).preempted == [1]
    assert young.output_ids == [7, 7, 7]
    assert old.finished
    plan = step(scheduler)
    assert shares(plan) == [(1, 0, 9)]
    row = plan.rows[0]
    assert row.token_ids == [100, 101, 102, 103, 104, 105, 7, 7, 7] and row.samples and row.joins is not None
    assert young.output_ids == [7, 7, 7, 7]


def test_static_batching_admits_only_when_nothing_runs() -> None:
    scheduler = make_scheduler(batching="static")
    add(scheduler, 0, prompt=2, max_tokens=2)
    add(scheduler, 1, prompt=2, max_tokens=4)
    assert [share[0] for share in shares(step(scheduler))] == [0, 1]
    add(scheduler, 2, prompt=2, max_tokens=2)
    for expected in ([0, 1], [1], [1], [2]):
        assert [share[0] for share in shares(step(scheduler))] == expected


def test_continuous_batching_admits_at_once() -> None:
    scheduler = make_scheduler()
    add(scheduler, 0, prompt=2)
    step(scheduler)
    add(scheduler, 1, prompt=2)
    assert [share[0] for share in shares(step(scheduler))] == [0, 1]


def test_no_more_requests_run_than_there_are_seats() -> None:
    scheduler = make_scheduler(max_num_seqs=2)
    for id in range(3):
        add(scheduler, id, prompt=2, max_tokens=2)
    plan = step(scheduler)
    assert [row.request_id for row in plan.rows] == [0, 1] and {row.seat for row in plan.rows} == {0, 1}
    step(scheduler)
    plan = step(scheduler)
    assert [(row.request_id, row.start) for row in plan.rows] == [(2, 0)]


def test_without_reusing_the_cache_every_step_computes_everything_again() -> None:
    scheduler = make_scheduler(reuse_kv=False, max_num_batched_tokens=64)
    request = add(scheduler, 0, prompt=5, max_tokens=3)
    plans = [step(scheduler) for _ in range(3)]
    assert [shares(plan) for plan in plans] == [[(0, 0, 5)], [(0, 0, 6)], [(0, 0, 7)]]
    assert plans[2].rows[0].token_ids == [100, 101, 102, 103, 104, 7, 7]
    assert request.finished and scheduler.pool.num_used == 0


def test_a_request_that_exactly_fills_the_pages_runs_to_its_end() -> None:
    """Seven prompt tokens and six new ones: the last new token's KV is never needed, so twelve slots are enough."""
    scheduler = make_scheduler(num_pages=3)
    request = add(scheduler, 0, prompt=7, max_tokens=6)
    while not scheduler.idle:
        step(scheduler)
    assert len(request.output_ids) == 6 and scheduler.num_preemptions == 0 and scheduler.num_steps == 6


def test_a_request_that_needs_one_slot_more_is_refused_with_both_numbers() -> None:
    scheduler = make_scheduler(num_pages=3)
    with pytest.raises(ValueError, match=r"13 cached tokens, which is 4 pages of 4.* KV cache has 3.*lower max_tokens"):
        add(scheduler, 0, prompt=7, max_tokens=7)
    assert scheduler.idle


def test_two_that_each_need_every_page_take_turns() -> None:
    scheduler = make_scheduler(num_pages=3)
    requests = [add(scheduler, id, prompt=4, max_tokens=9) for id in range(2)]
    for _ in range(200):
        if scheduler.idle:
            break
        step(scheduler)
    assert all(len(request.output_ids) == 9 for request in requests)
    assert scheduler.num_preemptions > 0


def test_abort_while_waiting_running_and_after_the_end() -> None:
    scheduler = make_scheduler(max_num_seqs=1)
    running, waiting = add(scheduler, 0, prompt=5), add(scheduler, 1, prompt=5)
    step(scheduler)
    scheduler.abort(waiting)
    assert waiting.finish_reason == "abort" and not scheduler.waiting
    scheduler.abort(running)
    assert running.finish_reason == "abort" and scheduler.idle and scheduler.pool.num_used == 0
    scheduler.check()
    scheduler.abort(running)
    done = add(scheduler, 2, prompt=1, max_tokens=1)
    step(scheduler)
    scheduler.abort(done)
    assert done.finish_reason == "length"
    scheduler.check()


def test_abort_between_schedule_and_commit_discards_what_the_step_computed() -> None:
    scheduler = make_scheduler()
    gone, stays = add(scheduler, 0, prompt=5), add(scheduler, 1, prompt=5)
    plan = scheduler.schedule()
    scheduler.abort(gone)
    assert commit(scheduler, plan) == [stays]
    assert gone.output_ids == [] and gone.num_computed == 0
    assert shares(step(scheduler)) == [(1, 5, 1)]


def test_abort_of_a_preempted_request() -> None:
    scheduler = make_scheduler(num_pages=3)
    add(scheduler, 0, prompt=4)
    young = add(scheduler, 1, prompt=8, max_tokens=4)
    step(scheduler)
    assert step(scheduler).preempted == [1]
    scheduler.abort(young)
    scheduler.check()
    assert young.finish_reason == "abort" and not scheduler.waiting


def test_an_end_token_ends_a_request_and_says_which_it_was() -> None:
    scheduler = make_scheduler()
    params = SamplingParams(temperature=0, max_tokens=8, stop_token_ids=[7])
    asked = Request(0, [1, 2], params, 8, seed=0, stop_ids=frozenset([7]))
    eos = Request(1, [1, 2], SamplingParams(max_tokens=8), 8, seed=0, stop_ids=frozenset([7]))
    scheduler.add(asked)
    scheduler.add(eos)
    step(scheduler)
    assert (asked.finish_reason, asked.stop_reason) == ("stop", 7)
    assert (eos.finish_reason, eos.stop_reason) == ("stop", None)
    assert asked.output_ids == [7]


def test_an_end_token_on_the_last_allowed_place_counts_as_stop() -> None:
    scheduler = make_scheduler()
    request = Request(0, [1], SamplingParams(max_tokens=1), 1, seed=0, stop_ids=frozenset([7]))
    scheduler.add(request)
    step(scheduler)
    assert request.finish_reason == "stop"


def test_check_finds_a_lost_seat() -> None:
    scheduler = make_scheduler(max_num_seqs=4)
    scheduler.free_seats.pop()
    with pytest.raises(RuntimeError, match="seats are lost or taken twice"):
        scheduler.check()


def test_check_finds_pages_that_a_finished_request_kept() -> None:
    scheduler = make_scheduler()
    request = add(scheduler, 0, prompt=5)
    step(scheduler)
    scheduler.running.remove(request)
    with pytest.raises(RuntimeError, match="page"):
        scheduler.check()


def test_why_says_where_a_request_is() -> None:
    scheduler = make_scheduler(num_pages=3, max_num_seqs=2, batching="static")
    first, second = (add(scheduler, id, prompt=8, max_tokens=4) for id in range(2))
    assert scheduler.why(first) == "waits: needs 2 pages, 3 free"
    step(scheduler)
    assert scheduler.why(first) == "runs: 1 tokens pending, 2 pages"
    assert "static batching admits only when nothing runs, and 1 run" in scheduler.why(second)
    scheduler.config = replace(scheduler.config, batching="continuous")
    assert scheduler.why(second) == "waits: needs 2 pages, 1 free"
    assert "tokens pending, 0 left of the step's token budget" in scheduler.why(second, 0)
    scheduler.abort(first)
    assert scheduler.why(first) == "finished: abort"


def test_why_names_the_seats_when_they_are_taken() -> None:
    scheduler = make_scheduler(max_num_seqs=1)
    add(scheduler, 0, prompt=2)
    second = add(scheduler, 1, prompt=2)
    step(scheduler)
    assert "all 1 seats (max_num_seqs) are taken" in scheduler.why(second)


def test_a_plan_prints_at_any_moment() -> None:
    scheduler = make_scheduler()
    request = add(scheduler, 0, prompt=5)
    plan = scheduler.schedule()
    assert "StepPlan(step=1" in repr(plan) and plan.num_tokens == 5
    assert repr(request).startswith("Request(0 running: 5 prompt + 0 output") and "pages [0, 1]" in repr(request)


def test_after_a_step_that_was_cut_short_nothing_is_in_flight_and_nothing_computed() -> None:
    """With overlap scheduling a token was on its way: nobody reads it any more, so it is sampled again."""
    scheduler = make_scheduler()
    request = add(scheduler, 0, prompt=5)
    scheduler.advance(scheduler.schedule())
    assert (request.in_flight, request.num_computed) == (1, 5)
    scheduler.start_over()
    assert (request.in_flight, request.num_computed, request.seat, request.num_pending) == (0, 0, -1, 5)
    assert shares(step(scheduler)) == [(0, 0, 5)] and request.output_ids == [7]
