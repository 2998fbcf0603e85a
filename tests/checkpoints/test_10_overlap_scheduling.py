"""Checkpoint 10: one step ahead. Oracle: the order of things, written down by hand, and Hugging Face's tokens."""

from typing import Any

from exercises import PLAIN, jobs_for, tokens_of_hugging_face
from tiny import Oracle
from workload import Job, make_engine, run_jobs

from minillm.config import EngineConfig
from minillm.engine.engine import Engine
from minillm.kvcache.manager import KVCacheManager
from minillm.probe import Event, listen
from minillm.request import Request, SamplingParams, StructuredOutputsParams
from minillm.scheduler.plan import StepPlan, StepResult
from minillm.scheduler.scheduler import Scheduler

AHEAD: dict[str, Any] = {"async_scheduling": True}
TIGHT: dict[str, Any] = {"page_size": 4, "num_pages": 9, "max_num_batched_tokens": 12}  # 36 slots: not for all at once


def planned(prompts: tuple[int, ...] = (6, 5), budget: int = 64, **settings: Any) -> tuple[Scheduler, StepPlan]:
    """Requests with these prompt lengths, and the plan of their first step; each may write 4 tokens."""
    config = EngineConfig(max_model_len=64, page_size=4, max_num_batched_tokens=budget, **settings)
    scheduler = Scheduler(config, KVCacheManager(100, 4, reuse_kv=config.reuse_kv))
    for id, length in enumerate(prompts):
        params = SamplingParams(max_tokens=4)
        scheduler.add(Request(id, list(range(length)), params, 4, seed=id, stop_ids=frozenset([99])))
    return scheduler, scheduler.schedule()


def books(scheduler: Scheduler) -> dict[int, tuple[int, int]]:
    return {request.id: (request.num_computed, request.in_flight) for request in scheduler.running}


class TestAdvance:
    """10.1"""

    def test_what_is_launched_counts_as_computed(self) -> None:
        scheduler, plan = planned()
        scheduler.advance(plan)
        computed = {request.id: request.num_computed for request in scheduler.running}
        assert computed == {0: 6, 1: 5}, (
            f"the step computes 6 tokens of request 0 and 5 of request 1; num_computed is {computed}"
        )

    def test_what_it_samples_is_in_flight(self) -> None:
        scheduler, plan = planned()
        scheduler.advance(plan)
        flying = {request.id: request.in_flight for request in scheduler.running}
        assert flying == {0: 1, 1: 1}, f"each request has one token in flight; in_flight is {flying}"
        here = [request.id for request in scheduler.running if request.place.last_on_device]
        assert here == [0, 1], f"the device has the last token of requests 0 and 1; last_on_device says so of {here}"

    def test_the_next_plan_needs_no_token(self) -> None:
        scheduler, plan = planned()
        scheduler.advance(plan)
        rows = [(row.request_id, row.start, row.count, row.token_ids) for row in scheduler.schedule().rows]
        right = [(0, 6, 1, []), (1, 5, 1, [])]
        assert rows == right, (
            f"nobody has read a token, and the next step computes one of each request all the same: the plan has "
            f"(request, start, count, token ids) {rows}, and {right} is right"
        )

    def test_step_after_step(self) -> None:
        scheduler, plan = planned()
        scheduler.advance(plan)
        scheduler.advance(scheduler.schedule())
        got = books(scheduler)
        assert got == {0: (7, 2), 1: (6, 2)}, (
            f"two steps are launched, and no token is read: (num_computed, in_flight) by request is {got}, and "
            "{0: (7, 2), 1: (6, 2)} is right"
        )

    def test_a_chunk_samples_nothing(self) -> None:
        scheduler, plan = planned((6, 20), budget=16)
        scheduler.advance(plan)
        got = books(scheduler)
        assert got == {0: (6, 1), 1: (10, 0)}, (
            f"request 1 has 10 of its 20 prompt tokens in this step, so it samples nothing: (num_computed, in_flight) "
            f"by request is {got}, and (10, 0) is right for it"
        )
        assert not scheduler.running[1].place.last_on_device, (
            "request 1 has sampled no token yet, so the device has no last token of it (last_on_device)"
        )

    def test_once_is_enough(self) -> None:
        scheduler, plan = planned()
        scheduler.advance(plan)
        scheduler.advance(plan)
        got = books(scheduler)
        assert got == {0: (6, 1), 1: (5, 1)}, (
            f"the same plan twice, at the launch and at the commit: (num_computed, in_flight) by request is {got}, and "
            f"{{0: (6, 1), 1: (5, 1)}} is right"
        )
        assert plan.advanced, "plan.advanced must say that the plan's tokens are in the books"

    def test_who_was_aborted_is_passed_over(self) -> None:
        scheduler, plan = planned()
        gone = scheduler.running[0]
        scheduler.abort(gone)
        try:
            scheduler.advance(plan)
        except (KeyError, AttributeError) as error:
            raise AssertionError(f"request 0 was aborted, its row is still in the plan: {error!r}") from error
        assert gone.in_flight == 0 and books(scheduler) == {1: (5, 1)}, (
            f"request 0 was aborted, and has {gone.in_flight} tokens in flight; the others: {books(scheduler)}"
        )

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(), **AHEAD)
        tokens_of_hugging_face(oracle, jobs_for(gap=1), **AHEAD, **TIGHT)
        tokens_of_hugging_face(oracle, jobs_for())


def order_of(engine: Engine, steps: int) -> list[str]:
    """What the loop does in so many calls of `Engine.step`: launches and reads, with their steps' numbers."""
    order: list[str] = []

    def note(event: Event) -> None:
        order.append(f"{'launch' if event.name == 'overlap.launch' else 'read'} {event.plan.step}")

    with listen(["overlap.launch", "scheduler.commit"], note):
        for _ in range(steps):
            engine.step()
    return order


class TestStep:
    """10.2"""

    @staticmethod
    def engine(oracle: Oracle, tokens: int = 6, grammar: StructuredOutputsParams | None = None) -> Engine:
        engine = make_engine(oracle.folder, **PLAIN, **AHEAD)
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, structured_outputs=grammar)
        engine.add_request([5, 6, 7], params)
        return engine

    def test_the_next_step_is_launched_before_the_one_before_is_read(self, oracle: Oracle) -> None:
        order = order_of(self.engine(oracle), 3)
        right = ["launch 1", "launch 2", "read 1", "launch 3", "read 2"]
        assert order == right, f"request 0's first steps go {order}, and {right} is right"

    def test_it_gives_the_step_before_with_its_tokens(self, oracle: Oracle) -> None:
        engine = self.engine(oracle)
        assert engine.overlap is not None
        first = engine.overlap.step()
        assert first is None, f"the first step was only launched, there is nothing to read: {first!r}, not None"
        second = engine.overlap.step()
        assert second is not None, "the first step's plan and result are there to be read, and None came"
        plan, result = second
        assert plan.step == 1, f"the step that is read is step 1, and the plan of step {plan.step} came"
        right = oracle.greedy([5, 6, 7], 1)[0]
        assert result.tokens == {0: [right]}, (
            f"request 0 got one token, and it is {right}, so [{right}] is right; the result has {result.tokens}"
        )
        flying = engine.overlap.flying
        assert flying is not None and flying.plan.step == 2, f"step 2 should be under way, and this is: {flying!r}"

    def test_the_last_step_is_read_though_nothing_more_is_launched(self, oracle: Oracle) -> None:
        engine = self.engine(oracle, tokens=2)
        order = order_of(engine, 3)
        right = ["launch 1", "launch 2", "read 1", "read 2"]
        assert order == right, f"a request of 2 tokens takes the steps {order}, and {right} is right"
        assert engine.overlap is not None and engine.overlap.flying is None, (
            "all tokens are read, and a step still flies"
        )

    def test_with_a_grammar_it_reads_before_it_launches(self, oracle: Oracle) -> None:
        engine = make_engine("nano-llama", num_pages=64, **PLAIN, **AHEAD)
        grammar = StructuredOutputsParams(regex="[a-z]{9}")
        engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=9, structured_outputs=grammar))
        order = order_of(engine, 6)
        right = ["launch 1", "read 1", "launch 2", "read 2", "launch 3", "read 3"]
        assert order == right, f"a grammar needs each token before the next plan: {order}, and {right} is right"

    def test_if_the_launch_fails_nothing_flies(self, oracle: Oracle) -> None:
        engine = self.engine(oracle)
        assert engine.overlap is not None
        engine.overlap.step()

        def fail(_event: Event) -> None:
            raise MemoryError

        try:
            with listen("overlap.launch", fail):
                engine.overlap.step()
        except MemoryError:
            pass
        flying = engine.overlap.flying
        assert flying is None, (
            f"launching step 2 failed, and step {flying and flying.plan.step} flies still: it would be read a second "
            "time, and its token counted twice"
        )

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(), **AHEAD)
        tokens_of_hugging_face(oracle, jobs_for(gap=2), **AHEAD, **TIGHT)


class TestCommit:
    """10.3"""

    @staticmethod
    def two_ahead() -> tuple[Scheduler, StepPlan, StepPlan]:
        """Requests 0 and 1: their first step is launched, and so is the second; nothing is read."""
        scheduler, first = planned()
        scheduler.advance(first)
        second = scheduler.schedule()
        scheduler.advance(second)
        return scheduler, first, second

    def test_tokens_are_known_and_no_longer_in_flight(self) -> None:
        scheduler, first, _ = self.two_ahead()
        a, b = scheduler.running
        advanced = scheduler.commit(first, StepResult({0: [50], 1: [60]}))
        assert [a.output_ids, b.output_ids] == [[50], [60]], (
            f"the tokens 50 and 60 were read; requests 0 and 1 have written {a.output_ids} and {b.output_ids}"
        )
        assert [a.in_flight, b.in_flight] == [1, 1], (
            f"of two tokens in flight one was read: requests 0 and 1 have {a.in_flight} and {b.in_flight} in flight, "
            "and 1 each is right"
        )
        assert advanced == [a, b], f"requests 0 and 1 got a token, in this order; {advanced} came back"

    def test_a_plan_that_nobody_has_booked_is_booked_first(self) -> None:
        scheduler, plan = planned()
        scheduler.commit(plan, StepResult({0: [50], 1: [60]}))
        got = books(scheduler)
        assert got == {0: (6, 0), 1: (5, 0)}, (
            f"in the plain loop nobody calls advance before: (num_computed, in_flight) by request is {got}, and "
            "{0: (6, 0), 1: (5, 0)} is right"
        )

    def test_who_ends_gives_pages_and_seat_back(self) -> None:
        scheduler, first, _ = self.two_ahead()
        used, gone = scheduler.pool.num_used, scheduler.running[0]
        scheduler.commit(first, StepResult({0: [99], 1: [60]}))  # 99 is its stop token
        running = [request.id for request in scheduler.running]
        assert running == [1], f"request 0 ended with its stop token 99: requests {running} run, and [1] is right"
        assert gone.pages == [] and scheduler.pool.num_used == used - 2, (
            f"request 0 ended and held 2 pages: it has {gone.pages}, and {scheduler.pool.num_used} of {used} are taken"
        )
        scheduler.check()

    def test_its_row_in_the_next_step_is_thrown_away(self) -> None:
        scheduler, first, second = self.two_ahead()
        gone, other = scheduler.running
        scheduler.commit(first, StepResult({0: [99], 1: [60]}))
        free, error = scheduler.pool.num_free, None
        try:
            advanced = scheduler.commit(second, StepResult({0: [51], 1: [61]}))
        except (KeyError, AttributeError) as caught:
            error = caught
        assert error is None, f"request 0 had ended, and its row in the next plan makes the commit fail: {error!r}"
        assert gone.output_ids == [99], f"request 0 had ended with token 99; now its output is {gone.output_ids}"
        assert other.output_ids == [60, 61], (
            f"request 1 goes on, behind a row that was thrown away: it has the tokens {other.output_ids}, and [60, 61] "
            "is right"
        )
        assert advanced == [other], f"only request 1 got a token; {advanced} came back"
        assert scheduler.pool.num_free == free, "no page was given back by the row that was thrown away"
        scheduler.check()

    def test_a_chunk_gets_no_token(self) -> None:
        scheduler, plan = planned((6, 20), budget=16)
        a, b = scheduler.running
        advanced = scheduler.commit(plan, StepResult({0: [50]}))
        assert (advanced, b.output_ids) == ([a], []), (
            f"request 1 has 10 of its 20 prompt tokens computed, and samples nothing; those who got "
            f"a token, by what came back: requests {[request.id for request in advanced]}"
        )

    def test_log_probabilities_come_along(self) -> None:
        scheduler, plan = planned()
        a, b = scheduler.running
        asked = [(50, -0.5, 1)]
        scheduler.commit(plan, StepResult({0: [50], 1: [60]}, logprobs={0: [asked]}))
        assert a.logprobs == [asked] and b.logprobs == [], (
            f"request 0 asked for its token's log probabilities, request 1 did not: {a.logprobs} and {b.logprobs}"
        )

    def test_without_reuse_all_is_forgotten(self) -> None:
        scheduler, plan = planned(budget=64, reuse_kv=False)
        scheduler.commit(plan, StepResult({0: [50], 1: [99]}))
        got = books(scheduler)
        assert got == {0: (0, 0)}, (
            f"with reuse_kv=False request 0's 7 tokens are all pending again: (num_computed, in_flight) is {got}"
        )

    def test_the_engine_throws_no_other_token_away(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(), **AHEAD)
        tokens_of_hugging_face(oracle, jobs_for(gap=1), **AHEAD, **TIGHT)
        prompt = (5, 6, 7)
        right = oracle.greedy(list(prompt), 8)
        stop = next(token for i, token in enumerate(right) if i > 1 and token not in right[:i])
        engine = make_engine(oracle.folder, **PLAIN, **AHEAD)
        run = run_jobs(engine, [Job((9, 8), 20), Job(prompt, 8, stop=(stop,))])
        until = right[: right.index(stop) + 1]
        assert run.tokens(1) == until, (
            f"request 1 stops at token {stop}: it has written {run.tokens(1)}, and {until} is right"
        )
        assert run.tokens(0) == oracle.greedy([9, 8], 20), (
            "request 0 goes on beside it, and has other tokens than alone"
        )
