"""Overlap scheduling: the next step is launched before the last one is read, and nobody notices but the clock."""

import gc
import threading
from typing import Any

import pytest
from tiny import Oracle
from workload import Job, assert_idle, make_engine, run_jobs

from minillm.engine.engine import Engine
from minillm.probe import Event, listen
from minillm.request import SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


def overlapped(oracle: Oracle, **settings: Any) -> Engine:
    return make_engine(oracle.folder, async_scheduling=True, debug_checks=True, **settings)


def finish(engine: Engine) -> list[Any]:
    outputs = []
    while engine.has_requests:
        outputs += engine.step()
    return outputs


def test_a_step_is_planned_before_the_one_before_is_read(oracle: Oracle) -> None:
    engine, order = overlapped(oracle), []
    engine.add_request([5, 6, 7], GREEDY)

    def note(event: Event) -> None:
        order.append((event.name.partition(".")[2], event.plan.step))

    with listen("scheduler.plan", note), listen("scheduler.commit", note):
        finish(engine)
    assert order[:5] == [("plan", 1), ("plan", 2), ("commit", 1), ("plan", 3), ("commit", 2)]


def test_the_device_computes_while_the_host_plans(oracle: Oracle) -> None:
    """Each step waits in its middle until the next one was planned, which would be for ever if nobody overlapped."""
    engine, planned = overlapped(oracle), [threading.Event() for _ in range(20)]
    engine.add_request([5, 6, 7], GREEDY)
    waited = []

    def in_the_middle(event: Event) -> None:
        assert threading.current_thread() is not threading.main_thread()
        if event.step < 8:  # the last one
            waited.append(planned[event.step + 1].wait(timeout=60))

    with (
        listen("scheduler.plan", lambda event: planned[event.plan.step].set()),
        listen("sampler.logits", in_the_middle),
    ):
        (output,) = finish(engine)
    assert waited == [True] * 7 and output.outputs[0].token_ids == oracle.greedy([5, 6, 7], 8)


def test_an_error_on_the_device_comes_out_where_it_is_read(oracle: Oracle) -> None:
    engine = overlapped(oracle)
    engine.add_request([5, 6, 7], GREEDY)

    def fail(event: Event) -> None:
        if event.step == 3:
            raise MemoryError("none left")

    with listen("sampler.logits", fail), pytest.raises(MemoryError, match="none left"):
        finish(engine)
    (output,) = finish(engine)
    assert output.outputs[0].token_ids == oracle.greedy([5, 6, 7], 8)
    assert_idle(engine)


def test_the_thread_ends_with_its_engine(oracle: Oracle) -> None:
    before = set(threading.enumerate())
    engine = overlapped(oracle)
    engine.add_request([5, 6, 7], GREEDY)
    finish(engine)
    (device,) = set(threading.enumerate()) - before
    del engine
    gc.collect()
    device.join(timeout=60)
    assert not device.is_alive()


def test_a_request_that_ends_by_its_length_is_in_no_step_too_many(oracle: Oracle) -> None:
    engine, rows = overlapped(oracle), []
    engine.add_request([5, 6, 7], GREEDY)
    with listen("scheduler.plan", lambda event: rows.extend(event.plan.rows)):
        (output,) = finish(engine)
    assert output.outputs[0].token_ids == oracle.greedy([5, 6, 7], 8) and len(rows) == 8
    assert_idle(engine)


def test_a_stop_token_costs_one_row_that_is_thrown_away(oracle: Oracle) -> None:
    tokens = oracle.greedy([5, 6, 7], 8)
    stop = next(token for i, token in enumerate(tokens) if i > 1 and token not in tokens[:i])
    end = tokens.index(stop) + 1
    engine, rows = overlapped(oracle), []
    engine.add_request([9, 8], SamplingParams(temperature=0, max_tokens=20, ignore_eos=True))  # somebody goes on
    engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, stop_token_ids=[stop]))
    with listen("scheduler.plan", lambda event: rows.extend(row for row in event.plan.rows if row.request_id == 1)):
        outputs = {output.request_id: output.outputs[0] for output in finish(engine)}
    assert outputs[1].token_ids == tokens[:end] and outputs[1].finish_reason == "stop"
    assert outputs[0].token_ids == oracle.greedy([9, 8], 20)
    assert len(rows) == end + 1
    assert_idle(engine)


def test_an_abort_while_a_step_is_under_way(oracle: Oracle) -> None:
    engine = overlapped(oracle)
    first, second = (engine.add_request(prompt, GREEDY) for prompt in ([5, 6, 7], [9, 8]))
    for _ in range(3):
        engine.step()
    output = engine.abort(first.id)
    assert output and output.outputs[0].token_ids == oracle.greedy([5, 6, 7], 8)[: len(output.outputs[0].token_ids)]
    (other,) = finish(engine)
    assert other.request_id == second.id and other.outputs[0].token_ids == oracle.greedy([9, 8], 8)
    assert_idle(engine)


def test_the_last_abort_leaves_nothing_to_do(oracle: Oracle) -> None:
    engine = overlapped(oracle)
    request = engine.add_request([5, 6, 7], GREEDY)
    engine.step()
    engine.abort(request.id)
    assert not engine.has_requests and engine.step() == []
    engine.add_request([9, 8], GREEDY)
    (output,) = finish(engine)
    assert output.outputs[0].token_ids == oracle.greedy([9, 8], 8)
    assert_idle(engine)


def test_preempted_with_a_token_under_way(oracle: Oracle) -> None:
    """The token was made before the pages went: it counts."""
    jobs = [Job(tuple(range(10, 30)), 24), Job(tuple(range(60, 75)), 24)]
    engine = overlapped(oracle, page_size=4, num_pages=14, max_model_len=96, prefix_cache="none")
    run = run_jobs(engine, jobs)
    assert engine.scheduler.num_preemptions > 0
    assert [run.tokens(i) for i in range(2)] == [oracle.greedy(list(job.prompt), job.max_tokens) for job in jobs]
    assert_idle(engine)


def test_an_error_in_the_middle_loses_nothing(oracle: Oracle) -> None:
    engine = overlapped(oracle)
    engine.add_request([5, 6, 7], GREEDY)
    for _ in range(3):
        engine.step()

    def fail(_event: Event) -> None:
        raise KeyboardInterrupt

    with listen("overlap.read", fail), pytest.raises(KeyboardInterrupt):
        engine.step()
    (output,) = finish(engine)
    assert output.outputs[0].token_ids == oracle.greedy([5, 6, 7], 8)
    assert_idle(engine)


def test_a_grammar_waits_for_its_token(oracle: Oracle) -> None:
    from minillm import LLM, StructuredOutputsParams

    params = SamplingParams(
        temperature=1.0, seed=3, max_tokens=30, structured_outputs=StructuredOutputsParams(choice=["yes", "no"])
    )
    texts = [
        LLM("nano-llama", num_pages=64, async_scheduling=ahead).generate("x", params, use_tqdm=False)[0].outputs[0].text
        for ahead in (True, False)
    ]
    assert texts[0] == texts[1] and texts[0] in ("yes", "no")
