"""The main promise: any two settings give the same tokens, whatever else is in the batch, and lose no page."""

from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from strategies import MAX_MODEL_LEN, scenarios
from tiny import Oracle
from workload import Alone, Job, Run, assert_idle, make_engine, run_jobs

Scenario = tuple[list[Job], dict[str, Any]]


@pytest.fixture(scope="session")
def alone(oracle: Oracle) -> Alone:
    return Alone(oracle, page_size=16, max_model_len=MAX_MODEL_LEN)


def limits_hold(run: Run, chosen: dict[str, Any]) -> None:
    """No plan is empty or over a limit, and none admits anyone after somebody had to leave."""
    for plan in run.plans:
        assert plan.rows, "a step without work"
        assert plan.num_tokens <= chosen["max_num_batched_tokens"]
        assert len(plan.rows) <= chosen["max_num_seqs"]
        assert len({row.seat for row in plan.rows}) == len(plan.rows) == len({row.request_id for row in plan.rows})
        assert not (plan.preempted and any(row.joins for row in plan.rows))


@given(scenario=scenarios())
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_settings_give_the_tokens_that_each_request_gets_alone(scenario: Scenario, alone: Alone) -> None:
    workload, chosen = scenario
    engine = make_engine(alone.oracle.folder, **chosen)
    run = run_jobs(engine, workload)
    event(f"preemptions: {min(engine.scheduler.num_preemptions, 3)}")
    for index, job in enumerate(workload):
        tokens = run.tokens(index)
        assert alone.agree(job, tokens), f"{job} under {chosen}: {tokens}, not {alone.tokens(job)}"
        stopped = tokens[-1] in job.stop
        assert run.reason(index) == ("stop" if stopped else "length")
        assert stopped or len(tokens) == job.max_tokens
        assert not set(tokens[:-1]) & set(job.stop)
    limits_hold(run, chosen)
    assert_idle(engine)


@given(scenario=scenarios(aborts=True))
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_aborts_at_any_step_lose_nothing_and_change_no_other_request(scenario: Scenario, alone: Alone) -> None:
    workload, chosen = scenario
    engine = make_engine(alone.oracle.folder, **chosen)
    run = run_jobs(engine, workload)  # insists on exactly one final output for each
    for index, job in enumerate(workload):
        tokens = run.tokens(index)
        assert alone.agree(job, tokens), f"{job} under {chosen}: {tokens}, not {alone.tokens(job)}"
        ended = len(tokens) == job.max_tokens or (tokens and tokens[-1] in job.stop)
        assert run.reason(index) == "abort" if not ended else run.reason(index) in ("stop", "length")
        assert ended or job.aborted is not None
    limits_hold(run, chosen)
    assert_idle(engine)


def test_random_scenarios_do_preempt(oracle: Oracle, alone: Alone) -> None:
    """The same by hand, so that preemption is known to be reached: two requests that cannot both grow to their end."""
    workload = [Job(tuple(range(10, 30)), 24), Job(tuple(range(60, 75)), 24, temperature=1.0, seed=3)]
    engine = make_engine(oracle.folder, page_size=4, num_pages=14, max_model_len=MAX_MODEL_LEN)
    run = run_jobs(engine, workload)
    assert engine.scheduler.num_preemptions > 0
    assert [run.tokens(i) for i in range(2)] == [alone.tokens(job) for job in workload]
    assert_idle(engine)
