"""Build 1: a scheduler with its pool. Every plan is judged by the referee that sits between it and the engine."""

from collections.abc import Sequence
from typing import Any

from exercises import PLAIN, jobs_for, tokens_of_hugging_face
from fuzz import examples
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strategies import scenarios
from tiny import Oracle
from workload import Job, assert_idle, make_engine, run_jobs

from minillm.config import EngineConfig
from minillm.engine import core
from minillm.kvcache.manager import KVCacheManager
from minillm.learn.builds.build_1.seam import served, tight
from minillm.learn.registry import builds
from minillm.request import Request, SamplingParams
from minillm.scheduler.plan import StepPlan, StepResult
from minillm.scheduler.scheduler import Scheduler

LIMIT = 400  # steps: more than any workload here needs


def scheduler_for(pages: int = 16, **chosen: Any) -> Scheduler:
    """The engine's, or what has taken its place; pages hold 4 tokens. No model: `step` makes the tokens up."""
    config = EngineConfig(max_model_len=96, page_size=4, **{"max_num_seqs": 8, "max_num_batched_tokens": 32, **chosen})
    return core.Scheduler(config, KVCacheManager(pages, 4))


def add(scheduler: Scheduler, id: int, prompt: int, max_tokens: int = 4) -> Request:
    request = Request(id, list(range(100, 100 + prompt)), SamplingParams(max_tokens=max_tokens), max_tokens, seed=0)
    scheduler.add(request)
    return request


def step(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.schedule()
    scheduler.commit(plan, StepResult({row.request_id: [7] for row in plan.rows if row.samples}))
    return plan


def run(scheduler: Scheduler, requests: Sequence[Request]) -> list[StepPlan]:
    """Step until all have ended."""
    plans: list[StepPlan] = []
    while not scheduler.idle:
        assert len(plans) < LIMIT, f"after {LIMIT} steps these have not ended: {unfinished(requests)}"
        plans.append(step(scheduler))
    assert not unfinished(requests)
    return plans


def unfinished(requests: Sequence[Request]) -> str:
    left = [request for request in requests if not request.finished]
    return ", ".join(
        f"request {r.id} (has {len(r.output_ids)} of {r.max_tokens} tokens, had to leave {r.num_preemptions} times)"
        for r in left
    )


def shares(plan: StepPlan) -> list[tuple[int, int, int]]:
    """(request, start, count) of each row."""
    return [(row.request_id, row.start, row.count) for row in plan.rows]


class TestScheduler:
    """build1"""

    def test_a_prompt_then_token_by_token(self) -> None:
        scheduler = scheduler_for()
        request = add(scheduler, 0, prompt=5)
        got = [shares(plan) for plan in run(scheduler, [request])]
        right = [[(0, 0, 5)], [(0, 5, 1)], [(0, 6, 1)], [(0, 7, 1)]]
        assert got == right, f"a prompt of 5 tokens, 4 to come: (request, start, count) {got}, and {right} is right"

    def test_a_long_prompt_comes_in_chunks(self) -> None:
        scheduler = scheduler_for(max_num_batched_tokens=8)
        request = add(scheduler, 0, prompt=20, max_tokens=2)
        got = [shares(plan) for plan in run(scheduler, [request])]
        right = [[(0, 0, 8)], [(0, 8, 8)], [(0, 16, 4)], [(0, 20, 1)]]
        assert got == right, f"a prompt of 20 tokens, a budget of 8: {got}, and {right} is right"

    def test_several_share_a_step(self) -> None:
        scheduler = scheduler_for()
        requests = [add(scheduler, id, prompt=5) for id in range(3)]
        plans = run(scheduler, requests)
        assert len(plans) == 4, f"3 requests fit into one step, and need 4 together: this took {len(plans)}"

    def test_who_comes_later_joins_those_that_run(self) -> None:
        scheduler = scheduler_for()
        requests = [add(scheduler, 0, prompt=5, max_tokens=8)]
        step(scheduler)
        requests.append(add(scheduler, 1, prompt=5))
        plan = step(scheduler)
        assert {row.request_id for row in plan.rows} == {0, 1}, f"both can be computed: the rows are {shares(plan)}"
        run(scheduler, requests)

    def test_no_more_than_there_are_seats(self) -> None:
        scheduler = scheduler_for(max_num_seqs=2)
        run(scheduler, [add(scheduler, id, prompt=3) for id in range(5)])

    def test_when_pages_run_out_all_end_all_the_same(self) -> None:
        """Two that fit at first, and cannot both grow to their end; a third waits."""
        scheduler = scheduler_for(pages=5)
        requests = [add(scheduler, id, prompt=6, max_tokens=12) for id in range(3)]
        run(scheduler, requests)

    def test_a_request_may_need_every_page(self) -> None:
        scheduler = scheduler_for(pages=5)
        run(scheduler, [add(scheduler, 0, prompt=3), add(scheduler, 1, prompt=14, max_tokens=7), add(scheduler, 2, 3)])

    def test_an_abort_gives_pages_and_seat_back(self) -> None:
        scheduler = scheduler_for(pages=6, max_num_seqs=2)
        runs, also, waits = (add(scheduler, id, prompt=8, max_tokens=8) for id in range(3))
        step(scheduler)
        scheduler.abort(waits)
        scheduler.abort(runs)
        scheduler.abort(runs)  # a second time: nothing happens
        late = add(scheduler, 3, prompt=8)
        run(scheduler, [also, late])
        assert not waits.output_ids and len(runs.output_ids) == 1

    def test_a_request_that_was_sent_away_may_be_aborted(self) -> None:
        scheduler = scheduler_for(pages=5)
        requests = [add(scheduler, id, prompt=6, max_tokens=12) for id in range(2)]
        while not scheduler.idle and not scheduler.num_preemptions:
            step(scheduler)
        for request in requests:
            if request.num_preemptions:
                scheduler.abort(request)
        run(scheduler, requests)

    def test_nobody_waits_for_ever(self) -> None:
        """A large request, and small ones that come in every step: each alone is easier to serve than the large one."""
        scheduler = scheduler_for(pages=8, max_num_seqs=4)
        add(scheduler, 0, prompt=8)
        large = add(scheduler, 1, prompt=24)
        for id in range(2, 102):
            add(scheduler, id, prompt=8, max_tokens=3)
            step(scheduler)
            if large.finished:
                return
        came = sum(request.id > 1 for request in scheduler.waiting)
        raise AssertionError(
            f"request 1 needs 6 of 8 pages. In 100 steps it has {len(large.output_ids)} of 4 tokens, while "
            f"{100 - came} of those that came after it were served"
        )

    @given(
        sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(0, 12)), min_size=1, max_size=8),
        aborts=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 7)), max_size=3),
        spare=st.integers(0, 12), seats=st.integers(1, 8), budget=st.integers(1, 40),
    )  # fmt: skip
    @settings(max_examples=examples(60), suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    def test_any_arrivals_aborts_and_pools(
        self, sizes: list[tuple[int, int, int]], aborts: list[tuple[int, int]], spare: int, seats: int, budget: int
    ) -> None:
        """Requests of (prompt, tokens to come, step of arrival); a pool with a few pages more than one needs."""
        pages = max(-(-(prompt + more - 1) // 4) for prompt, more, _ in sizes) + spare
        scheduler = scheduler_for(pages, max_num_seqs=seats, max_num_batched_tokens=budget)
        requests: dict[int, Request] = {}
        for now in range(31):
            for id, (prompt, more, arrives) in enumerate(sizes):
                if arrives == now:
                    requests[id] = add(scheduler, id, prompt, more)
            for when, id in aborts:
                if when == now and id in requests:
                    scheduler.abort(requests[id])
            if not scheduler.idle:
                step(scheduler)
        run(scheduler, list(requests.values()))

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(gap=2), page_size=4, num_pages=14, max_num_seqs=3)
        tokens_of_hugging_face(oracle, jobs_for(), page_size=4, num_pages=64, max_num_batched_tokens=7)

    @given(scenario=scenarios(aborts=True, batching="continuous", enable_chunked_prefill=True, reuse_kv=True, **{
        "prefix_cache": "none", "scheduling_policy": "fcfs", "async_scheduling": False, "enforce_eager": True, **PLAIN,
        "long_prefill_token_threshold": 0,
    }))  # fmt: skip
    @settings(max_examples=examples(6), suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    def test_the_engine_writes_what_its_own_scheduler_has_it_write(
        self, oracle: Oracle, scenario: tuple[list[Job], dict[str, Any]]
    ) -> None:
        """Random requests with random controls, arrivals and aborts, in pools that are hardly large enough."""
        jobs, chosen = scenario
        engine = make_engine(oracle.folder, **chosen)
        got = run_jobs(engine, jobs)
        assert_idle(engine)
        plenty = make_engine(oracle.folder, **{**chosen, "num_pages": 4096 // engine.pool.page_size + 6})
        plenty.core.scheduler = Scheduler(plenty.config, KVCacheManager(plenty.pool.num_pages, plenty.pool.page_size))
        right = run_jobs(plenty, jobs)
        for index, job in enumerate(jobs):
            for one, other in zip(got.finals[index].outputs, right.finals[index].outputs):
                length = min(len(one.token_ids), len(other.token_ids)) if job.aborted is not None else None
                assert one.token_ids[:length] == other.token_ids[:length], (
                    f"request {index} ({len(job.prompt)} prompt tokens, {job.max_tokens} to come) gets the tokens "
                    f"{one.token_ids}, and {other.token_ids} with the engine's own scheduler"
                )

    def test_the_target_in_steps_and_pages(self, oracle: Oracle) -> None:
        build = builds()["build1"]
        goal = build.target_numbers
        facts = served(make_engine(oracle.folder, **PLAIN, **tight(build)), build).facts
        steps, at_once = facts["steps"][0], facts["requests at once, most"][0]
        assert steps <= goal["steps"] and at_once >= goal["at_once"], (
            f"all is right, but {goal['requests']} requests in {goal['pages']} pages of {goal['page_size']} take "
            f"{steps} steps, with {at_once} at once at most; the target is {goal['steps']} steps, and "
            f"{goal['at_once']} at once. Are pages kept for tokens that have not come yet? Is budget left in a step in "
            f"which somebody waits?"
        )
