"""Several tokens a step: whoever proposes drafts, right or wrong, each request gets the tokens it gets without, and the
books are right after every step. On paper (`paper.py`): real scheduler and manager, and a model that takes notes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from paper import VOCAB, Paper, answer_alone
from scripted import Scripted

from minillm.config import EngineConfig
from minillm.kvcache.manager import KVCacheManager
from minillm.kvcache.pages import pages_for
from minillm.request import Request, SamplingParams, StructuredOutputsParams
from minillm.scheduler.drafts import may_draft
from minillm.scheduler.plan import StepPlan, StepResult
from minillm.scheduler.scheduler import Scheduler

LONGEST = 40


@dataclass(frozen=True)
class Job:
    prompt: tuple[int, ...]
    max_tokens: int = 8
    seed: int = 0
    stop: int | None = None
    n: int = 1
    arrives: int = 0
    aborted: int | None = None
    namespace: str | None = None

    def requests(self, id: int) -> list[Request]:
        """Its answers, as the engine makes them."""
        params = SamplingParams(temperature=1, n=self.n, max_tokens=self.max_tokens)
        stops = frozenset() if self.stop is None else frozenset([self.stop])
        made: list[Request] = []
        for i in range(self.n):
            first = made[0] if made else None
            made.append(
                Request(
                    id + i, list(self.prompt), params, self.max_tokens, self.seed + i, stop_ids=stops, leader=first,
                    index=i, namespace=self.namespace,
                )
            )  # fmt: skip
        return made

    def answer(self, index: int) -> list[int]:
        whole = answer_alone(self.prompt, self.seed + index, self.max_tokens)
        return whole if self.stop not in whole else whole[: whole.index(self.stop) + 1]


def run(
    jobs: Sequence[Job], script: Sequence[tuple[int, int]] | None, ahead: bool = False, num_pages: int = 64, **more: Any
) -> tuple[list[StepPlan], Scripted | None]:
    """Serve the jobs on paper; each answer must be the one that it has alone."""
    config = EngineConfig(max_model_len=LONGEST, **{"page_size": 4, "max_num_batched_tokens": 64, **more})
    assert isinstance(config.page_size, int)
    manager = KVCacheManager(num_pages, config.page_size, config.shares_prefixes, config.reuse_kv)
    proposer = None if script is None else Scripted(script, VOCAB)
    scheduler = Scheduler(config, manager, proposer)
    paper, plans = Paper(scheduler), list[StepPlan]()
    groups = {i: job.requests(10 * i) for i, job in enumerate(jobs)}
    if proposer:
        # Longer than they are, so that drafts go past stops and limits.
        proposer.answers = {
            request.id: answer_alone(job.prompt, request.seed, LONGEST)
            for job, group in zip(jobs, groups.values())
            for request in group
        }
    flying: tuple[StepPlan, StepResult] | None = None

    def launch() -> tuple[StepPlan, StepResult] | None:
        plan = scheduler.schedule()
        scheduler.check()
        within_limits(scheduler, plan)
        plans.append(plan)
        if not plan.rows:
            return None
        result = paper.execute(plan)
        if ahead:
            scheduler.advance(plan)
        return plan, result

    for step in range(2000):
        for i, job in enumerate(jobs):
            if job.arrives == step:
                for request in groups[i]:
                    scheduler.add(request)
            if job.aborted == step:
                for request in groups[i]:
                    scheduler.abort(request)
        before, flying = flying, None
        if before is None or not proposer:
            flying = launch()
        if not ahead:
            before, flying = flying, None
        if before:
            scheduler.commit(*before)
        scheduler.check()
        paper.check_tree()
        if scheduler.idle and step >= max(job.arrives for job in jobs):
            break
    for i, job in enumerate(jobs):
        for request in groups[i]:
            right = job.answer(request.index)
            got = request.output_ids
            assert got == right[: len(got)], f"{request}: {got}, not {right}"
            assert len(got) == len(right) or (job.aborted is not None and request.finish_reason == "abort")
    assert manager.pool.num_used == manager.cache.num_evictable
    return plans, proposer


def within_limits(scheduler: Scheduler, plan: StepPlan) -> None:
    assert plan.num_tokens <= scheduler.config.max_num_batched_tokens
    assert plan.num_drafts == sum(len(row.draft_ids) for row in plan.rows)
    for request in scheduler.running:
        longest = len(request.prompt_ids) + request.max_tokens - 1
        assert len(request.pages) <= pages_for(longest, scheduler.pool.page_size), "pages that it can never need"


@st.composite
def jobs_of(draw: st.DrawFn) -> Job:
    start = tuple(range(draw(st.integers(0, 12))))  # many begin alike
    prompt = (*start, *draw(st.lists(st.integers(0, VOCAB - 1), min_size=0 if start else 1, max_size=4)))
    arrives = draw(st.integers(0, 6))
    return Job(
        prompt,
        draw(st.integers(1, LONGEST - len(prompt))),
        draw(st.integers(0, 3)),
        draw(st.none() | st.integers(0, VOCAB - 1)),
        draw(st.sampled_from([1, 1, 2, 3])),
        arrives,
        draw(st.none() | st.integers(arrives + 1, arrives + 12)),
        draw(st.sampled_from([None, None, "a"])),
    )


@given(
    jobs=st.lists(jobs_of(), min_size=1, max_size=4),
    script=st.none() | st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=5),
    ahead=st.booleans(),
    page_size=st.sampled_from([1, 2, 3, 4, 8, 16]),
    spare=st.sampled_from([0, 0, 1, 2, 5, 30]),
    prefix_cache=st.sampled_from(["radix", "radix", "none"]),
    seats=st.sampled_from([1, 2, 3, 8]),
    budget=st.sampled_from([1, 2, 3, 5, 9, 40]),
    chunked=st.booleans(),
    threshold=st.sampled_from([0, 0, 1, 5]),
    batching=st.sampled_from(["continuous", "static"]),
    policy=st.sampled_from(["fcfs", "lpm", "priority"]),
    reuse_kv=st.sampled_from([True, True, True, False]),
)
@settings(max_examples=400, deadline=None)
def test_whoever_proposes_whatever_the_answers_are_the_same(
    jobs: list[Job], script: list[tuple[int, int]] | None, ahead: bool, page_size: int, spare: int, prefix_cache: str,
    seats: int, budget: int, chunked: bool, threshold: int, batching: str, policy: str, reuse_kv: bool,
) -> None:  # fmt: skip
    prefix_cache = prefix_cache if reuse_kv else "none"
    needed = max(pages_for(len(job.prompt) + job.max_tokens - 1, page_size) for job in jobs)
    plans, proposer = run(
        jobs,
        script,
        ahead and reuse_kv,
        needed + spare,
        page_size=page_size,
        prefix_cache=prefix_cache,
        max_num_seqs=seats,
        max_num_batched_tokens=budget if chunked and reuse_kv else max(budget, LONGEST),
        enable_chunked_prefill=chunked,
        long_prefill_token_threshold=threshold,
        batching=batching,
        scheduling_policy="fcfs" if policy == "lpm" and prefix_cache == "none" else policy,
        reuse_kv=reuse_kv,
    )
    event(f"preempted: {any(plan.preempted for plan in plans)}, drafts: {bool(proposer and proposer.right)}")


PROMPT = tuple(range(20, 27))


def tokens_a_step(plans: list[StepPlan]) -> list[tuple[int, int]]:
    """(start, tokens computed) of the only request."""
    return [(row.start, row.count) for plan in plans for row in plan.rows]


@pytest.mark.parametrize(
    ("right", "wrong", "steps"),
    [
        (0, 0, [(0, 7), (7, 1), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1), (13, 1)]),
        (0, 2, [(0, 7), (7, 3), (8, 3), (9, 3), (10, 3), (11, 3), (12, 2), (13, 1)]),  # none is right: as without
        (1, 0, [(0, 7), (7, 2), (9, 2), (11, 2), (13, 1)]),
        (2, 1, [(0, 7), (7, 4), (10, 4), (13, 1)]),
        (4, 0, [(0, 7), (7, 5), (12, 2)]),
        (9, 0, [(0, 7), (7, 7)]),  # cut at what the answer may still have
    ],
)
@pytest.mark.parametrize("ahead", [False, True])
def test_how_many_tokens_a_step_gives(right: int, wrong: int, steps: list[tuple[int, int]], ahead: bool) -> None:
    plans, _ = run([Job(PROMPT, max_tokens=8)], [(right, wrong)], ahead)
    assert tokens_a_step(plans) == steps


def test_a_prompt_gets_no_drafts_while_it_is_computed() -> None:
    plans, _ = run([Job(PROMPT, max_tokens=6)], [(3, 0)], max_num_batched_tokens=4)
    assert tokens_a_step(plans) == [(0, 4), (4, 3), (7, 4), (11, 1)]


def test_drafts_take_what_the_step_s_budget_leaves() -> None:
    """Every running request keeps its turn: the oldest's drafts come out of what is left, and so first."""
    plans, _ = run([Job(PROMPT, seed=1), Job(PROMPT, seed=2)], [(4, 0)], max_num_batched_tokens=20, prefix_cache="none")
    assert [(row.request_id, row.count) for row in plans[1].rows] == [(0, 5), (10, 5)]
    plans, _ = run([Job(PROMPT, seed=1), Job(PROMPT, seed=2)], [(4, 0)], max_num_batched_tokens=14, max_num_seqs=2)
    assert all(plan.num_tokens <= 14 for plan in plans)


def test_drafts_preempt_nobody() -> None:
    """Two requests fill the pages; drafts would need more, and are left out before anyone must leave for them."""
    jobs = [Job(PROMPT, max_tokens=2, seed=1), Job(PROMPT, max_tokens=9, seed=2)]
    plans, proposer = run(jobs, [(4, 0)], num_pages=5, prefix_cache="none")
    assert not any(plan.preempted for plan in plans)
    assert proposer and proposer.right > 0


def start(prompt: int = 6, drafts: Sequence[int] = (), **more: Any) -> tuple[Scheduler, Request, StepPlan]:
    """A request whose prompt and first token (50) are computed, and the plan of its next step, with these drafts."""

    class Says:
        def propose(self, request: Request, most: int) -> list[int]:
            return list(drafts)

    config = EngineConfig(max_model_len=64, page_size=4, prefix_cache="radix")
    scheduler = Scheduler(config, KVCacheManager(20, 4, shares_prefixes=True), Says())
    values = {"max_tokens": 9, "params": SamplingParams(max_tokens=9), "stop_ids": frozenset([99]), **more}
    request = Request(0, list(range(prompt)), seed=0, **values)
    scheduler.add(request)
    plan = scheduler.schedule()
    assert not plan.num_drafts
    scheduler.commit(plan, StepResult({0: [50]}))
    return scheduler, request, scheduler.schedule()


def test_a_row_with_drafts_names_its_tokens() -> None:
    scheduler, request, plan = start(drafts=[51, 52, 53])
    (row,) = plan.rows
    assert (row.start, row.count, row.token_ids, list(row.draft_ids)) == (6, 4, [50, 51, 52, 53], [51, 52, 53])
    assert row.samples and plan.num_drafts == 3 and row.num_pages == 3
    scheduler.advance(plan)
    assert (request.num_computed, request.in_flight) == (7, 1), "a draft counts as computed only once it proved right"
    assert not request.place.last_on_device


@pytest.mark.parametrize("tokens", [[51], [51, 52], [51, 52, 53], [51, 52, 53, 54]])
def test_commit_takes_what_was_accepted(tokens: list[int]) -> None:
    scheduler, request, plan = start(drafts=[51, 52, 53])
    assert scheduler.commit(plan, StepResult({0: tokens})) == [request]
    assert request.output_ids == [50, *tokens]
    assert (request.num_computed, request.in_flight) == (6 + len(tokens), 0)
    assert request.num_pending == 1, "the last token, which nothing was computed of"
    scheduler.check()
    (row,) = scheduler.schedule().rows
    assert (row.start, row.token_ids[:1]) == (6 + len(tokens), tokens[-1:])


def test_only_pages_of_accepted_tokens_are_offered() -> None:
    """Drafts fill a page, one of them is wrong: the page is nobody else's business until right tokens are in it."""
    scheduler, request, plan = start(prompt=6, drafts=[51, 52, 53])  # tokens 6 to 9: page 1 is full, but not known
    assert request.place.num_shareable == 1
    scheduler.commit(plan, StepResult({0: [61]}))
    plan = scheduler.schedule()  # token 7, with drafts: the page is full of known tokens now
    assert plan.rows[0].start == 7 and request.place.num_shareable == 2
    known = scheduler.cache.match([*range(6), 50, 61])
    assert known.pages == request.pages[:2]
    assert scheduler.cache.peek([*range(6), 50, 51]) == 1
    scheduler.commit(plan, StepResult({0: [51, 52, 53]}))  # tokens 8 to 10
    plan = scheduler.schedule()
    assert plan.rows[0].start == 10 and request.place.num_shareable == 2
    scheduler.commit(plan, StepResult({0: [51, 52, 53]}))  # tokens 11 to 13: the page's end was in the middle
    assert scheduler.schedule().rows[0].start == 13 and request.place.num_shareable == 3
    scheduler.check()


def test_a_stop_token_in_the_middle_drops_what_lies_behind_it() -> None:
    scheduler, request, plan = start(drafts=[51, 99, 53])
    candidates = [[(token, -1.0, 1)] for token in (51, 99, 53, 54)]
    scheduler.commit(plan, StepResult({0: [51, 99, 53, 54]}, {0: candidates}))
    assert request.output_ids == [50, 51, 99] and request.finish_reason == "stop"
    assert request.logprobs == candidates[:2]
    assert scheduler.idle and scheduler.pool.num_used == scheduler.cache.num_evictable
    scheduler.check()


def test_a_limit_in_the_middle_drops_what_lies_behind_it() -> None:
    """Drafts are cut so that none goes past the limit; commit holds it all the same."""
    scheduler, request, plan = start(drafts=[51, 52, 53], max_tokens=3)
    assert list(plan.rows[0].draft_ids) == [51]
    scheduler.commit(plan, StepResult({0: [51, 52, 53]}))
    assert request.output_ids == [50, 51, 52] and request.finish_reason == "length"
    scheduler.check()


def test_an_abort_in_flight_throws_the_run_away() -> None:
    scheduler, request, plan = start(drafts=[51, 52, 53])
    scheduler.advance(plan)
    scheduler.abort(request)
    assert scheduler.commit(plan, StepResult({0: [51, 52]})) == []
    assert request.output_ids == [50] and scheduler.idle
    scheduler.check()


def test_a_step_that_was_cut_short_forgets_its_drafts() -> None:
    scheduler, request, _ = start(drafts=[51, 52, 53])
    scheduler.start_over()
    scheduler.check()
    assert request.num_pending == 7 and scheduler.pool.num_used == 0
    (row,) = scheduler.schedule().rows
    assert row.token_ids == [*range(6), 50] and not row.draft_ids


@pytest.mark.parametrize(
    ("more", "may"),
    [
        ({}, True),
        ({"params": SamplingParams(temperature=1, top_p=0.5, logprobs=3, logit_bias={1: 2.0}, min_tokens=4)}, True),
        ({"params": SamplingParams(repetition_penalty=1.1)}, False),
        ({"params": SamplingParams(presence_penalty=0.5)}, False),
        ({"params": SamplingParams(structured_outputs=StructuredOutputsParams(regex="a+"))}, False),
        ({"bad_words": [[1, 2]]}, False),
    ],
)
def test_who_gets_no_drafts(more: dict[str, Any], may: bool) -> None:
    _, request, plan = start(drafts=[51], **more)
    assert may_draft(request) is may
    assert plan.num_drafts == may and len(plan.rows[0].draft_ids) == may
