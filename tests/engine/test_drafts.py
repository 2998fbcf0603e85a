"""Several tokens a step, on the real engine: with drafts, right or wrong, it gives exactly the tokens that it gives
without, and its books are right after every step (`run_jobs` has them checked)."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from scripted import Scripted
from strategies import MAX_MODEL_LEN, scenarios
from tiny import TEXT_VOCAB, Oracle
from workload import Job, Run, assert_idle, make_engine, run_jobs

from minillm.engine.engine import Engine
from minillm.probe import listen
from minillm.request import CompletionOutput, SamplingParams, StructuredOutputsParams
from minillm.sampling.verify import accepted, each_position, tokens_by_request
from minillm.scheduler.plan import PlanRow

PROMPT = tuple(range(5, 25))
SCRIPTS = {
    "right": [(4, 0)],
    "wrong": [(0, 3)],
    "partly right": [(2, 2), (0, 1), (4, 0), (1, 3), (0, 0), (3, 1)],
}


def with_drafts(
    oracle: Oracle, jobs: Sequence[Job], script: Sequence[tuple[int, int]], **chosen: Any
) -> tuple[Run, Run, Engine, Scripted]:
    """The jobs without a proposer, then with one that knows those answers."""
    chosen = {"max_model_len": MAX_MODEL_LEN, "debug_checks": True, **chosen}
    answers: dict[int, list[int]] = {}
    with listen("request.add", lambda event: answers.update({event.request.id: event.request.output_ids})):
        plain = run_jobs(make_engine(oracle.folder, **chosen), jobs)  # the lists grow with the requests
    engine = make_engine(oracle.folder, **chosen)
    proposer = Scripted(script, TEXT_VOCAB, answers)
    engine.scheduler.proposer = proposer
    drafted = run_jobs(engine, jobs)
    assert_idle(engine)
    return plain, drafted, engine, proposer


def outputs(run: Run) -> list[list[CompletionOutput]]:
    return [run.finals[index].outputs for index in sorted(run.finals)]


def same(plain: Run, drafted: Run) -> None:
    """Tokens, text, why each ended, and log probabilities but for rounding."""
    for index, answers in plain.finals.items():
        for old, new in zip(answers.outputs, drafted.finals[index].outputs, strict=True):
            assert new.token_ids == old.token_ids and new.text == old.text
            assert (new.finish_reason, new.stop_reason) == (old.finish_reason, old.stop_reason)
            assert (new.logprobs is None) == (old.logprobs is None)
            for one, other in zip(old.logprobs or [], new.logprobs or [], strict=True):
                assert list(one) == list(other)
                assert [a.logprob for a in one.values()] == pytest.approx([a.logprob for a in other.values()], abs=1e-4)


GREEDY = Job(PROMPT, 24)
DRAWN = Job(PROMPT[:7], 20, temperature=1.0, seed=3)
FILTERED = Job(PROMPT[:3], 16, temperature=0.8, top_k=40, top_p=0.9, min_p=0.01, seed=4, logprobs=2)
WANTED = [GREEDY, DRAWN, FILTERED]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    "chosen",
    [
        {"page_size": 1},
        {"page_size": 3},
        {"page_size": 16},
        {"page_size": 4, "async_scheduling": True},
        {"page_size": 4, "prefix_cache": "none", "async_scheduling": True},
        {"page_size": 4, "max_num_batched_tokens": 7},
        {"page_size": 4, "num_pages": 12},
        {"page_size": 2, "num_pages": 23, "async_scheduling": True},
        {"page_size": 16, "enforce_eager": False},
        {"page_size": 16, "kernels": "torch", "attention_backend": "reference"},
        {"page_size": 8, "reuse_kv": False},
    ],
    ids=lambda chosen: " ".join(f"{name}={value}" for name, value in chosen.items()),
)
def test_drafts_change_no_token(oracle: Oracle, chosen: dict[str, Any], script: str) -> None:
    plain, drafted, engine, proposer = with_drafts(oracle, WANTED, SCRIPTS[script], **chosen)
    same(plain, drafted)
    if "num_pages" in chosen:
        assert engine.scheduler.num_preemptions > 0
    if script == "wrong":
        assert proposer.right == 0
    elif chosen.get("reuse_kv", True):  # else no request has only one token pending
        assert proposer.right > 20
        if "num_pages" not in chosen and "max_num_batched_tokens" not in chosen and not chosen.get("async_scheduling"):
            assert len(drafted.plans) < len(plain.plans), "fewer steps give as many tokens"


def test_up_to_five_tokens_a_step(oracle: Oracle) -> None:
    _, drafted, _, _ = with_drafts(oracle, [GREEDY], [(4, 0)])
    rows = [row for plan in drafted.plans for row in plan.rows]
    assert [(row.start, row.count) for row in rows] == [(0, 20), (20, 5), (25, 5), (30, 5), (35, 5), (40, 3)]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("ahead", [False, True])
def test_what_ends_an_answer_in_the_middle_of_a_run(oracle: Oracle, script: str, ahead: bool) -> None:
    """Stop tokens, stop strings, max_tokens and the context limit, each somewhere behind the first token."""
    plain, _, _, _ = with_drafts(oracle, [GREEDY, DRAWN], SCRIPTS["wrong"])
    greedy, drawn = (plain.finals[i].outputs[0] for i in range(2))
    third = greedy.text[2:6]
    jobs = [
        *(Job(PROMPT, 24, stop=(greedy.token_ids[at],)) for at in (1, 2, 3, 6)),
        Job(PROMPT[:7], 20, temperature=1.0, seed=3, stop=(drawn.token_ids[4],), logprobs=1),
        *(Job(PROMPT, length) for length in (1, 2, 3, 4, 5, 6)),
        Job(PROMPT, 24, stop_strings=(third,), logprobs=0),
        Job(PROMPT, 24, stop_strings=(third[-1],), min_tokens=5),
        Job(PROMPT, 1000),
    ]
    plain, drafted, _, _ = with_drafts(oracle, jobs, SCRIPTS[script], async_scheduling=ahead)
    same(plain, drafted)
    reasons = [answers[0].finish_reason for answers in outputs(drafted)]
    assert reasons[:5] == ["stop"] * 5 and reasons[5:11] == ["length"] * 6 and reasons[-1] == "length"
    assert len(drafted.tokens(len(jobs) - 1)) == MAX_MODEL_LEN - len(PROMPT)


@pytest.mark.parametrize("prefix_cache", ["radix", "none"])
def test_several_answers_and_priorities(oracle: Oracle, prefix_cache: str) -> None:
    jobs = [
        Job(PROMPT, 12, temperature=1.0, seed=5, n=3, priority=1),
        Job(PROMPT[:9], 12, temperature=0.7, n=2, arrives=3),
        Job(PROMPT, 16, arrives=4, salt="a"),
    ]
    chosen = {"page_size": 4, "prefix_cache": prefix_cache, "scheduling_policy": "priority"}
    plain, drafted, _, proposer = with_drafts(oracle, jobs, SCRIPTS["partly right"], **chosen)
    same(plain, drafted)
    assert proposer.right > 10


def test_controls_that_look_at_positions_only_may_have_drafts(oracle: Oracle) -> None:
    jobs = [Job(PROMPT, 16, bias=((7, 3.0), (8, -2.0)), min_tokens=9, stop=(7,)), GREEDY]
    plain, drafted, _, proposer = with_drafts(oracle, jobs, SCRIPTS["partly right"])
    same(plain, drafted)
    ids = {row.request_id for plan in drafted.plans for row in plan.rows if row.draft_ids}
    assert ids == {0, 1} and proposer.right > 10


def test_who_looks_back_at_its_tokens_gets_no_drafts_and_others_beside_it_do(oracle: Oracle) -> None:
    jobs = [Job(PROMPT, 16, repetition=1.3, frequency=0.4, logprobs=1), FILTERED, Job(PROMPT, 16, presence=1.0)]
    plain, drafted, _, _ = with_drafts(oracle, jobs, SCRIPTS["partly right"])
    same(plain, drafted)
    assert {row.request_id for plan in drafted.plans for row in plan.rows if row.draft_ids} == {1}


def test_a_grammar_and_bad_words_beside_drafts() -> None:
    def run(proposer: Scripted | None, ahead: bool) -> list[list[int]]:
        engine = make_engine("nano-llama", async_scheduling=ahead, debug_checks=True, max_model_len=128)  # type: ignore[arg-type]
        engine.scheduler.proposer = proposer
        grammar = StructuredOutputsParams(regex="[a-z]{9}")
        asked = [
            engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=9, structured_outputs=grammar)),
            engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)),
            engine.add_request("Once upon", SamplingParams(temperature=0, max_tokens=9, bad_words=["a", " the"])),
        ]
        while engine.has_requests:
            engine.step()
        return [request.output_ids for request in asked]

    right = run(None, ahead=False)
    for ahead in (False, True):
        proposer = Scripted([(3, 1), (0, 2), (1, 0)], 300, dict(enumerate(right)))
        assert run(proposer, ahead) == right
        assert proposer.right > 3


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("at", range(8))
def test_an_abort_at_any_step(oracle: Oracle, at: int, ahead: bool) -> None:
    jobs = [Job(PROMPT, 24, aborted=at), Job(PROMPT, 24, temperature=1.0, seed=8)]
    chosen = {"page_size": 4, "async_scheduling": ahead}
    whole, _, _, _ = with_drafts(oracle, [Job(PROMPT, 24), jobs[1]], SCRIPTS["right"], **chosen)
    _, drafted, _, _ = with_drafts(oracle, jobs, SCRIPTS["partly right"], **chosen)
    assert drafted.tokens(1) == whole.tokens(1)
    got = drafted.tokens(0)
    assert got == whole.tokens(0)[: len(got)]


def test_a_stream_of_several_tokens_adds_up(oracle: Oracle) -> None:
    plain, _, _, _ = with_drafts(oracle, [GREEDY], SCRIPTS["wrong"])
    engine = make_engine(oracle.folder, debug_checks=True)
    engine.scheduler.proposer = Scripted([(3, 0)], TEXT_VOCAB, {0: plain.tokens(0)})
    engine.add_request({"prompt_token_ids": list(PROMPT)}, GREEDY.params, stream=True)
    told = []
    while engine.has_requests:
        told += [output.outputs[0] for output in engine.step()]
    assert "".join(one.delta for one in told) == told[-1].text == plain.finals[0].outputs[0].text
    assert told[-1].token_ids == plain.tokens(0) and len(told) < 10


@given(
    scenario=scenarios(aborts=True),
    script=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=5),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_under_any_settings(
    scenario: tuple[list[Job], dict[str, Any]], script: list[tuple[int, int]], oracle: Oracle
) -> None:
    """An aborted request may have got further with drafts than without, or less far without a step for them."""
    workload, chosen = scenario
    plain, drafted, engine, proposer = with_drafts(oracle, workload, script, **chosen)
    event(f"drafts accepted: {proposer.right > 0}, preemptions: {min(engine.scheduler.num_preemptions, 2)}")
    for index, job in enumerate(workload):
        for old, new in zip(plain.finals[index].outputs, drafted.finals[index].outputs, strict=True):
            count = min(len(old.token_ids), len(new.token_ids))
            assert new.token_ids[:count] == old.token_ids[:count]
            if job.aborted is None:
                assert (new.token_ids, new.text, new.finish_reason) == (old.token_ids, old.text, old.finish_reason)
                assert new.stop_reason == old.stop_reason


def row(id: int, drafts: Sequence[int] = ()) -> PlanRow:
    return PlanRow(id, 0, 10, 1 + len(drafts), [7, *drafts], [], 1, True, draft_ids=drafts)


def test_a_row_with_drafts_samples_at_each_of_its_positions() -> None:
    rows = each_position([row(0), row(1, [5, 6]), row(2)])
    assert [(one.request_id, one.start + one.count) for one in rows] == [(0, 11), (1, 11), (1, 12), (1, 13), (2, 11)]
    assert tokens_by_request(rows, [1, 5, 9, 8, 2]) == {0: [1], 1: [5, 9], 2: [2]}


@pytest.mark.parametrize(
    ("drafts", "sampled", "count"),
    [
        ([], [4], 1),
        ([5], [4, 9], 1),
        ([5], [5, 9], 2),
        ([5, 6], [5, 7, 9], 2),
        ([5, 6], [4, 6, 9], 1),
        ([5, 6], [5, 6, 9], 3),
    ],
)
def test_the_first_wrong_draft_ends_the_run(drafts: list[int], sampled: list[int], count: int) -> None:
    assert accepted(drafts, sampled) == count
