"""The main promise: any two settings give the same tokens, whatever else is in the batch, and lose no page."""

from typing import Any

import pytest
import torch
from fuzz import examples
from hypothesis import HealthCheck, event, given, settings
from strategies import MAX_MODEL_LEN, scenarios
from tiny import Oracle, hf_logits
from workload import Alone, Job, Run, assert_idle, cut, make_engine, run_jobs

from minillm.request import CompletionOutput

Scenario = tuple[list[Job], dict[str, Any]]


@pytest.fixture(scope="session")
def alone(oracle: Oracle) -> Alone:
    return Alone(oracle, page_size=16, max_model_len=MAX_MODEL_LEN)


def limits_hold(run: Run, chosen: dict[str, Any]) -> None:
    """No plan is empty or over a limit, and none admits anyone after somebody had to leave."""
    for plan in run.plans:
        assert plan.rows or chosen["async_scheduling"], "a step without work"  # or all are on their last token
        assert plan.num_tokens <= chosen["max_num_batched_tokens"]
        assert len(plan.rows) <= chosen["max_num_seqs"]
        assert len({row.seat for row in plan.rows}) == len(plan.rows) == len({row.request_id for row in plan.rows})
        assert not (plan.preempted and any(row.joins for row in plan.rows))


def answer_is_right(job: Job, output: CompletionOutput, chosen: dict[str, Any], alone: Alone, aborts: bool) -> None:
    """One answer: its tokens are those that the job gets alone, and it ended where and why it should."""
    tokens = output.token_ids
    if job.seed is None and job.temperature:
        return  # the engine drew a seed
    assert alone.agree(job, tokens), f"{job} under {chosen}: {tokens}, not {alone.tokens(job)}"
    count, text, string = cut(alone.tokenizer, tokens, job.stop_strings, job.min_tokens)
    assert count == len(tokens), f"{job}: tokens after the stop string {string!r}"
    stopped = bool(tokens) and tokens[-1] in job.stop
    if string:
        assert (output.finish_reason, output.stop_reason, output.text) == ("stop", string, text)
    elif stopped:
        assert (output.finish_reason, output.stop_reason) == ("stop", tokens[-1])
        assert len(tokens) > job.min_tokens
    elif len(tokens) == job.max_tokens:
        assert output.finish_reason == "length"
    else:
        assert aborts and job.aborted is not None and output.finish_reason == "abort"
    assert not set(tokens[:-1]) & set(job.stop)
    logprobs_are_right(job, output, alone)


def logprobs_are_right(job: Job, output: CompletionOutput, alone: Alone) -> None:
    """The chosen tokens' log probabilities are Hugging Face's, whatever the controls did to the choice."""
    if job.logprobs is None:
        assert output.logprobs is None and output.cumulative_logprob is None
        return
    tokens, found = output.token_ids, output.logprobs
    assert found is not None and len(found) == len(tokens)
    if tokens:
        logits = hf_logits(alone.oracle.model, [*job.prompt, *tokens])[len(job.prompt) - 1 : -1]
        expected = logits.log_softmax(dim=-1)[range(len(tokens)), tokens]
        got = torch.tensor([entry[token].logprob for entry, token in zip(found, tokens)])
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)
        assert output.cumulative_logprob == pytest.approx(float(got.sum()), abs=1e-4)
    assert all(job.logprobs <= len(entry) <= job.logprobs + 1 for entry in found)


@given(scenario=scenarios())
@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_settings_give_the_tokens_that_each_request_gets_alone(scenario: Scenario, alone: Alone) -> None:
    workload, chosen = scenario
    engine = make_engine(alone.oracle.folder, **chosen)
    run = run_jobs(engine, workload)
    event(f"preemptions: {min(engine.scheduler.num_preemptions, 3)}")
    for index, job in enumerate(workload):
        for single, output in zip(job.singles, run.finals[index].outputs, strict=True):
            answer_is_right(single, output, chosen, alone, aborts=False)
    limits_hold(run, chosen)
    assert_idle(engine)


@given(scenario=scenarios(aborts=True))
@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_aborts_at_any_step_lose_nothing_and_change_no_other_request(scenario: Scenario, alone: Alone) -> None:
    workload, chosen = scenario
    engine = make_engine(alone.oracle.folder, **chosen)
    run = run_jobs(engine, workload)  # insists on exactly one final output for each
    for index, job in enumerate(workload):
        for single, output in zip(job.singles, run.finals[index].outputs, strict=True):
            answer_is_right(single, output, chosen, alone, aborts=True)
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
