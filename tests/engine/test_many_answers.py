"""n answers to one prompt: one output, a seed each, streamed together, aborted together."""

import pytest
from tiny import Oracle
from workload import Job, assert_idle, make_engine, run_jobs

from minillm import LLM
from minillm.request import RequestOutput, SamplingParams
from minillm.scheduler.plan import Joining

PROMPT = [5, 6, 7]


def params(**others: object) -> SamplingParams:
    return SamplingParams(**{"temperature": 1.0, "seed": 9, "max_tokens": 8, "ignore_eos": True, "n": 3, **others})  # type: ignore[arg-type]


def test_each_answer_is_that_of_its_own_seed(oracle: Oracle) -> None:
    llm = LLM(str(oracle.folder), num_pages=64)
    (output,) = llm.generate([PROMPT], params(), use_tqdm=False)
    assert [answer.index for answer in output.outputs] == [0, 1, 2] and output.finished
    alone = [llm.generate([PROMPT], params(n=1, seed=9 + i), use_tqdm=False)[0].outputs[0] for i in range(3)]
    assert [answer.token_ids for answer in output.outputs] == [answer.token_ids for answer in alone]
    assert len({tuple(answer.token_ids) for answer in output.outputs}) == 3
    assert_idle(llm.engine)


def test_without_a_seed_they_differ_and_a_second_run_repeats_them(oracle: Oracle) -> None:
    runs = [LLM(str(oracle.folder), num_pages=64).generate([PROMPT], params(seed=None), use_tqdm=False) for _ in "ab"]
    first, second = ([answer.token_ids for answer in run[0].outputs] for run in runs)
    assert first == second and len({tuple(tokens) for tokens in first}) == 3


def test_prompts_with_one_and_with_several_answers_in_one_call(oracle: Oracle) -> None:
    llm = LLM(str(oracle.folder), num_pages=64)
    outputs = llm.generate(["a", "b", "c"], [params(n=1), params(n=4), params(n=2)], use_tqdm=False)
    assert [len(output.outputs) for output in outputs] == [1, 4, 2]
    assert [output.prompt for output in outputs] == ["a", "b", "c"]
    assert_idle(llm.engine)


def test_the_output_comes_when_all_have_ended(oracle: Oracle) -> None:
    """They end at different steps: seats and pages of the first are free while the others go on."""
    free = [
        run_jobs(make_engine(oracle.folder), [Job(tuple(PROMPT), 8, temperature=1.0, seed=9 + i)]).tokens(0)
        for i in range(3)
    ]
    engine = make_engine(oracle.folder, debug_checks=True)
    engine.add_request(PROMPT, params(stop_token_ids=[free[1][2]]))
    outputs: list[RequestOutput] = []
    while engine.has_requests:
        assert not outputs
        outputs += engine.step()
    (output,) = outputs
    assert output.finished and output.outputs[1].finish_reason == "stop"
    assert output.outputs[1].token_ids == free[1][: free[1].index(free[1][2]) + 1]
    assert_idle(engine)


def test_a_stream_tells_of_all_and_its_deltas_add_up(oracle: Oracle) -> None:
    llm = LLM(str(oracle.folder), num_pages=64)
    (expected,) = llm.generate([PROMPT], params(stop=["a", "b", "c", "d", "e"]), use_tqdm=False)
    texts = [""] * 3
    outputs = list(llm.stream([PROMPT], params(stop=["a", "b", "c", "d", "e"])))
    for output in outputs:
        assert len(output.outputs) == 3
        for answer in output.outputs:
            texts[answer.index] += answer.delta
            assert answer.text == texts[answer.index]
    assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
    assert texts == [answer.text for answer in expected.outputs]
    assert_idle(llm.engine)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_an_abort_ends_them_all(oracle: Oracle, steps: int) -> None:
    engine = make_engine(oracle.folder, max_num_seqs=2)  # one of the three waits
    request = engine.add_request(PROMPT, params())
    other = engine.add_request([8, 9], SamplingParams(temperature=0, max_tokens=6, ignore_eos=True))
    for _ in range(steps):
        assert not engine.step()
    output = engine.abort(request.id)
    assert output is not None and output.finished
    assert [answer.finish_reason for answer in output.outputs] == ["abort"] * 3
    assert engine.abort(request.id) is None
    outputs: list[RequestOutput] = []
    while engine.has_requests:
        outputs += engine.step()
    assert [(o.request_id, o.outputs[0].token_ids) for o in outputs] == [(other.id, oracle.greedy([8, 9], 6))]
    assert_idle(engine)


def test_leaving_a_stream_ends_them_all(oracle: Oracle) -> None:
    llm = LLM(str(oracle.folder), num_pages=64)
    for _ in llm.stream([PROMPT], params()):
        break
    assert_idle(llm.engine)


def test_if_it_is_refused_nothing_is_left(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder, num_pages=2)
    with pytest.raises(ValueError, match="lower max_tokens"):
        engine.add_request(PROMPT, params(max_tokens=100))
    assert_idle(engine)


def test_a_sibling_knows_its_leader(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder)
    leader = engine.add_request(PROMPT, params(prompt_logprobs=1))
    requests = list(engine.scheduler.waiting)
    assert [request.leader for request in requests] == [None, leader, leader]
    assert [request.index for request in requests] == [0, 1, 2]
    assert [request.id for request in requests] == [leader.id, leader.id + 1, leader.id + 2]
    assert [Joining.of(request).prompt_logprobs for request in requests] == [True, False, False]
    assert engine.add_request([8], SamplingParams()).id == leader.id + 3
    while engine.has_requests:
        for output in engine.step():
            if output.request_id == leader.id:
                assert output.prompt_logprobs is not None and len(output.prompt_logprobs) == 3
    assert_idle(engine)


def test_log_probabilities_of_each(oracle: Oracle) -> None:
    llm = LLM(str(oracle.folder), num_pages=64)
    (output,) = llm.generate([PROMPT], params(logprobs=1), use_tqdm=False)
    for answer in output.outputs:
        assert answer.logprobs is not None
        assert [next(iter(entry)) for entry in answer.logprobs] == answer.token_ids
