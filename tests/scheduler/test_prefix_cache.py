"""The scheduler with the radix tree: who shares what, who waits, and who goes first. Each new token is 7."""

from dataclasses import replace
from typing import Any

import pytest

from minillm.config import EngineConfig
from minillm.kvcache.manager import KVCacheManager
from minillm.request import Request, SamplingParams
from minillm.scheduler.plan import StepPlan, StepResult
from minillm.scheduler.scheduler import Scheduler

PROMPT = list(range(100, 120))


def make_scheduler(num_pages: int = 100, **settings: Any) -> Scheduler:
    config = EngineConfig(**{"page_size": 4, "max_model_len": 64, "prefix_cache": "radix", **settings})
    return Scheduler(config, KVCacheManager(num_pages, 4, config.shares_prefixes, config.reuse_kv))


def add(scheduler: Scheduler, id: int, prompt: list[int], max_tokens: int = 8, n: int = 1, **more: Any) -> Request:
    params = SamplingParams(temperature=1, max_tokens=max_tokens, n=n)
    request = Request(id, list(prompt), params, max_tokens, seed=0, **more)
    scheduler.add(request)
    return request


def step(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.schedule()
    scheduler.check()
    scheduler.commit(plan, StepResult({row.request_id: [7] for row in plan.rows if row.samples}))
    scheduler.check()
    return plan


def run(scheduler: Scheduler) -> list[StepPlan]:
    plans = []
    while not scheduler.idle:
        plans.append(step(scheduler))
    return plans


def shares(plan: StepPlan) -> list[tuple[int, int, int]]:
    """(request, start, count) of each row."""
    return [(row.request_id, row.start, row.count) for row in plan.rows]


def test_a_later_request_computes_only_what_is_new() -> None:
    scheduler = make_scheduler()
    add(scheduler, 0, PROMPT)
    run(scheduler)
    request = add(scheduler, 1, [*PROMPT, 1, 2, 3])
    plan = step(scheduler)
    assert shares(plan) == [(1, 20, 3)]
    assert plan.rows[0].new_pages == request.pages and len(request.pages) == 6  # the runner hears of the shared ones
    assert request.num_cached == 20
    assert scheduler.cache.stats.hit_tokens == 20 and scheduler.cache.stats.queries == 2


def test_a_fully_cached_prompt_still_computes_its_last_token() -> None:
    """A prompt of whole pages, all of them known: without a token to compute there would be no logits."""
    scheduler = make_scheduler()
    add(scheduler, 0, PROMPT)
    run(scheduler)
    add(scheduler, 1, PROMPT)
    assert shares(step(scheduler)) == [(1, 16, 4)]  # 20 tokens are known, and the page of the last one is done again
    run(scheduler)
    assert scheduler.pool.num_used == scheduler.cache.num_evictable


def test_a_page_that_is_computed_again_costs_no_memory() -> None:
    """The second request computes the last page of its prompt again. It must not hold both: it has memory for one."""
    scheduler = make_scheduler(num_pages=2, page_size=4)
    add(scheduler, 0, PROMPT[:4], max_tokens=1)
    run(scheduler)
    add(scheduler, 1, PROMPT[:4], max_tokens=4)
    assert len(run(scheduler)) == 4 and scheduler.num_preemptions == 0


def test_two_identical_prompts_in_one_step_share_its_pages() -> None:
    scheduler = make_scheduler()
    first, second = add(scheduler, 0, PROMPT), add(scheduler, 1, PROMPT)
    assert shares(step(scheduler)) == [(0, 0, 20), (1, 16, 4)]
    assert first.pages[:4] == second.pages[:4] and first.pages[4] != second.pages[4]
    plans = run(scheduler)
    assert {row.request_id for plan in plans for row in plan.rows} == {0, 1}
    assert scheduler.pool.num_used == scheduler.cache.num_evictable


def test_a_hit_while_the_other_is_still_in_its_chunks() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=10)
    add(scheduler, 0, PROMPT)
    assert shares(step(scheduler)) == [(0, 0, 10)]
    add(scheduler, 1, PROMPT[:15])
    scheduler.config = replace(scheduler.config, max_num_batched_tokens=40)
    # Two pages were full; in this step the first one fills three more, of which the second uses one.
    assert shares(step(scheduler)) == [(0, 10, 10), (1, 12, 3)]


def test_an_abort_in_the_middle_of_a_prefill() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=10)
    first, second = add(scheduler, 0, PROMPT), add(scheduler, 1, PROMPT)
    step(scheduler)
    scheduler.abort(first)
    scheduler.check()
    assert shares(step(scheduler)) == [(1, 8, 10)]  # two pages of the aborted one were done
    scheduler.abort(second)
    scheduler.check()
    assert scheduler.idle and scheduler.pool.num_used == scheduler.cache.num_evictable


def test_preemption_then_a_prefix_hit() -> None:
    """Who comes back finds its own pages, its generated tokens among them, and goes on behind them."""
    scheduler = make_scheduler(num_pages=8)
    first = add(scheduler, 0, PROMPT[:12], max_tokens=12)
    second = add(scheduler, 1, list(range(200, 212)), max_tokens=12)
    plans = run(scheduler)
    assert scheduler.num_preemptions > 0
    back = [row for plan in plans for row in plan.rows if row.joins and row.start > 0]
    assert back and all(row.request_id == 1 for row in back)
    assert all(len(row.new_pages) == row.num_pages for row in back)
    assert first.output_ids == second.output_ids == [7] * 12


def test_cached_prefixes_go_before_anyone_is_preempted() -> None:
    scheduler = make_scheduler(num_pages=8)
    add(scheduler, 0, PROMPT, max_tokens=1)
    run(scheduler)
    assert scheduler.cache.num_evictable == 5
    add(scheduler, 1, list(range(200, 220)), max_tokens=12)
    run(scheduler)
    assert scheduler.num_preemptions == 0 and scheduler.cache.stats.evictions > 0


def test_who_cannot_come_in_evicts_nothing_and_keeps_nothing() -> None:
    scheduler = make_scheduler(num_pages=11)
    add(scheduler, 0, PROMPT, max_tokens=1)
    run(scheduler)
    add(scheduler, 1, list(range(200, 220)), max_tokens=20)
    step(scheduler)
    waiting = add(scheduler, 2, [*PROMPT, *range(300, 316)], max_tokens=1)
    step(scheduler)
    assert waiting in scheduler.waiting and waiting.pages == [] and waiting.place.node is None
    assert scheduler.cache.stats.evictions == 0
    assert scheduler.why(waiting) == "waits: needs 9 pages, 5 free"


def test_namespaces_do_not_share() -> None:
    scheduler = make_scheduler()
    add(scheduler, 0, PROMPT, namespace="a")
    run(scheduler)
    add(scheduler, 1, PROMPT, namespace="b")
    assert shares(step(scheduler)) == [(1, 0, 20)]


def test_a_step_that_was_cut_short_leaves_no_pages_behind_that_it_did_not_fill() -> None:
    scheduler = make_scheduler()
    add(scheduler, 0, PROMPT)
    scheduler.schedule()
    scheduler.start_over()
    scheduler.check()
    assert scheduler.pool.num_used == 0
    assert shares(step(scheduler)) == [(0, 0, 20)]


def test_flush_only_when_idle() -> None:
    scheduler = make_scheduler()
    add(scheduler, 0, PROMPT)
    with pytest.raises(RuntimeError, match="0 requests run and 1 wait"):
        scheduler.flush_cache()
    step(scheduler)
    with pytest.raises(RuntimeError, match="1 requests run and 0 wait"):
        scheduler.flush_cache()
    run(scheduler)
    assert scheduler.pool.num_used == 6  # of 27 cached tokens
    scheduler.flush_cache()
    assert scheduler.pool.num_used == 0
    add(scheduler, 1, PROMPT)
    assert shares(step(scheduler)) == [(1, 0, 20)]


def test_longest_prefix_match_goes_first() -> None:
    scheduler = make_scheduler(scheduling_policy="lpm", max_num_seqs=1)
    add(scheduler, 0, PROMPT, max_tokens=1)
    run(scheduler)
    add(scheduler, 1, list(range(300, 310)), max_tokens=1)
    add(scheduler, 2, [*PROMPT[:8], 1], max_tokens=1)
    add(scheduler, 3, [*PROMPT, 1], max_tokens=1)
    assert [shares(plan)[0][0] for plan in run(scheduler)] == [3, 2, 1]


def test_longest_prefix_match_lets_nobody_wait_for_ever() -> None:
    scheduler = make_scheduler(scheduling_policy="lpm", max_num_seqs=1)
    scheduler.policy.patience = 5  # type: ignore[attr-defined]
    add(scheduler, 0, PROMPT, max_tokens=1)
    run(scheduler)
    add(scheduler, 1, list(range(300, 310)), max_tokens=1)
    order = []
    for id in range(2, 12):
        add(scheduler, id, [*PROMPT, id], max_tokens=1)
        order.append(shares(step(scheduler))[0][0])
    assert order == [2, 3, 4, 5, 6, 1, 7, 8, 9, 10]


def test_priority_decides_who_comes_in_and_who_must_go() -> None:
    scheduler = make_scheduler(num_pages=8, scheduling_policy="priority", prefix_cache="none")
    add(scheduler, 0, PROMPT[:12], max_tokens=12, priority=5)
    add(scheduler, 1, PROMPT[:12], max_tokens=12, priority=1)
    plans = run(scheduler)
    assert [row.request_id for row in plans[0].rows] == [1, 0]
    assert {id for plan in plans for id in plan.preempted} == {0}


def add_answers(scheduler: Scheduler, count: int, prompt: list[int], **more: Any) -> list[Request]:
    """Several answers to one prompt, as SamplingParams(n=...) makes them."""
    leader = add(scheduler, 0, prompt, n=count, **more)
    return [leader, *(add(scheduler, id, prompt, n=count, leader=leader, index=id, **more) for id in range(1, count))]


@pytest.mark.parametrize("prefix_cache", ["radix", "none"])
def test_several_answers_share_the_prompt_s_pages(prefix_cache: str) -> None:
    scheduler = make_scheduler(prefix_cache=prefix_cache)
    requests = add_answers(scheduler, 3, PROMPT)
    assert shares(step(scheduler)) == [(0, 0, 20), (1, 16, 4), (2, 16, 4)]
    assert {tuple(request.pages[:4]) for request in requests} == {tuple(requests[0].pages[:4])}
    assert len({request.pages[4] for request in requests}) == 3  # each writes on in a page of its own
    run(scheduler)
    assert scheduler.pool.num_used == scheduler.cache.num_evictable


@pytest.mark.parametrize("prefix_cache", ["radix", "none"])
def test_the_others_wait_until_the_first_has_computed_the_prompt(prefix_cache: str) -> None:
    scheduler = make_scheduler(prefix_cache=prefix_cache, max_num_batched_tokens=16, long_prefill_token_threshold=8)
    add_answers(scheduler, 2, PROMPT)
    assert [shares(step(scheduler)) for _ in range(3)] == [[(0, 0, 8)], [(0, 8, 8)], [(0, 16, 4), (1, 16, 4)]]


def test_they_keep_nobody_else_waiting() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=16, long_prefill_token_threshold=8)
    requests = add_answers(scheduler, 2, PROMPT)
    add(scheduler, 2, [1, 2])
    assert shares(step(scheduler)) == [(0, 0, 8), (2, 0, 2)]
    assert scheduler.why(requests[1]) == "waits: request 0 is computing the prompt, whose pages it will share"
    run(scheduler)
    assert scheduler.pool.num_used == scheduler.cache.num_evictable


def test_an_answer_whose_first_one_has_gone_computes_the_prompt_itself() -> None:
    scheduler = make_scheduler(prefix_cache="none", max_num_seqs=1)
    add_answers(scheduler, 2, PROMPT, max_tokens=2)
    assert [shares(plan) for plan in run(scheduler)] == [[(0, 0, 20)], [(0, 20, 1)], [(1, 0, 20)], [(1, 20, 1)]]


def test_the_first_answer_can_be_aborted_while_others_use_its_pages() -> None:
    scheduler = make_scheduler(prefix_cache="none")
    first, second = add_answers(scheduler, 2, PROMPT)
    step(scheduler)
    scheduler.abort(first)
    scheduler.check()
    run(scheduler)
    assert second.output_ids == [7] * 8 and scheduler.pool.num_used == 0


def test_a_prompt_whose_logits_are_wanted_is_computed_whole() -> None:
    scheduler = make_scheduler()
    add(scheduler, 0, PROMPT)
    run(scheduler)
    request = Request(1, PROMPT, SamplingParams(prompt_logprobs=0, max_tokens=2), 2, seed=0)
    scheduler.add(request)
    assert shares(step(scheduler)) == [(1, 0, 20)]


def test_who_cannot_come_in_yet_has_nothing_computed() -> None:
    """A hit in the prefix cache counts for a request only while it holds the pages."""
    scheduler = make_scheduler(num_pages=8)
    add(scheduler, 0, PROMPT, max_tokens=1)
    run(scheduler)
    add(scheduler, 1, list(range(200, 212)), max_tokens=4)  # 4 pages of 8 are free for as long as this one runs
    step(scheduler)
    waiting = add(scheduler, 2, [*PROMPT, *range(300, 312)], max_tokens=1)  # finds 5 pages, and lacks 3
    step(scheduler)
    assert scheduler.waiting[0] is waiting and waiting.pages == []
    assert (waiting.num_computed, waiting.num_pending) == (0, 32)
    assert "needs 8 pages" in scheduler.why(waiting)
    run(scheduler)
    assert waiting.finished and waiting.num_computed == 0
