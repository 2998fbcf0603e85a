"""Engine: steps, outputs and ends that are no scheduler's matter."""

import pytest
from tiny import Oracle, edit_json, make_llama
from workload import Job, assert_idle, make_engine, run_jobs

from minillm.probe import listen
from minillm.request import RequestOutput, SamplingParams


def test_the_models_own_end_token_ends_an_answer_unless_it_is_ignored(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    model = make_llama(folder)
    free = Oracle(folder, model).greedy([5, 6, 7], 20)
    end = free[6]
    edit_json(folder / "generation_config.json", eos_token_id=[end, 100])
    engine = make_engine(folder)
    for ignore, expected in ((False, free[: free.index(end) + 1]), (True, free)):
        engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=20, ignore_eos=ignore))
        outputs: list[RequestOutput] = []
        while engine.has_requests:
            outputs += engine.step()
        (output,) = outputs
        assert output.outputs[0].token_ids == expected
        assert output.outputs[0].finish_reason == ("length" if ignore else "stop")
        assert output.outputs[0].stop_reason is None  # vLLM names only what the user asked for
    assert_idle(engine)


def test_a_step_without_requests_does_nothing(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder)
    assert engine.step() == [] and engine.scheduler.num_steps == 0


def test_only_streaming_requests_give_an_output_for_every_token(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder)
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    quiet, loud = engine.add_request([5, 6], params), engine.add_request([7], params, stream=True)
    steps = []
    while engine.has_requests:
        steps.append([(output.request_id, output.finished) for output in engine.step()])
    assert steps[:4] == [[(loud.id, False)]] * 4
    assert sorted(steps[4]) == [(quiet.id, True), (loud.id, True)]


def test_an_abort_gives_what_there_is_once(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder)
    request = engine.add_request([5, 6], SamplingParams(temperature=0, max_tokens=9, ignore_eos=True))
    engine.step()
    engine.step()
    output = engine.abort(request.id)
    assert output is not None and output.finished and output.outputs[0].finish_reason == "abort"
    assert output.outputs[0].token_ids == oracle.greedy([5, 6], 2)
    assert engine.abort(request.id) is None and engine.abort(12345) is None
    assert_idle(engine)


def test_debug_checks_find_a_page_that_somebody_took(oracle: Oracle) -> None:
    for checks in (True, False):
        engine = make_engine(oracle.folder, debug_checks=checks)
        engine.add_request([5, 6], SamplingParams(max_tokens=3))
        engine.pool.allocate(1)
        if checks:
            with pytest.raises(RuntimeError, match="0 page tables hold it, but 1 references"):
                engine.step()
        else:
            engine.step()


@pytest.mark.parametrize("name", ["model.embed", "sampler.logits", "scheduler.commit"])
def test_an_error_in_a_step_loses_no_request(oracle: Oracle, name: str) -> None:
    """Whatever went wrong, the pages are whole, and the next step begins again: the tokens are the same."""
    engine = make_engine(oracle.folder, page_size=2, max_num_seqs=2)
    jobs = [Job((5, 6, 7), 6), Job((8, 9), 6, temperature=1.0, seed=4), Job((10,), 6)]
    expected = run_jobs(make_engine(oracle.folder), jobs)
    count = 0

    def fail(_event: object) -> None:
        nonlocal count
        count += 1
        if count % 3 == 0:
            raise MemoryError

    requests = [engine.add_request(list(job.prompt), job.params) for job in jobs]
    done: dict[int, list[int]] = {}
    with listen(name, fail):
        for _ in range(200):
            try:
                for output in engine.step():
                    done[output.request_id] = output.outputs[0].token_ids
            except MemoryError:
                engine.scheduler.check()
            if not engine.has_requests:
                break
    assert [done[request.id] for request in requests] == [expected.tokens(i) for i in range(3)]
    assert_idle(engine)
