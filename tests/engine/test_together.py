"""Whatever the others in the batch ask for, each request gets what it gets alone."""

from pathlib import Path
from typing import Any

import pytest
from tiny import Oracle
from workload import assert_idle, make_engine

from minillm.request import RequestOutput, SamplingParams, StructuredOutputsParams

LIMIT = {"max_tokens": 14, "ignore_eos": True}
REGEX = StructuredOutputsParams(regex="[a-z]{3,8}(-[0-9]{2,4})*[.]")
WISHES: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0, "repetition_penalty": 1.3},
    {"temperature": 0, "frequency_penalty": 0.7, "presence_penalty": -0.4, "logprobs": 3},
    {"temperature": 0, "allowed_token_ids": [*range(40, 90)], "min_tokens": 6, "stop_token_ids": [*range(40, 70)]},
    {"temperature": 0, "logit_bias": {60: 2.0, 61: -3.0}, "prompt_logprobs": 2},
    {"temperature": 1.5, "seed": 2, "bad_words": ["a", "bc", "def"], "min_p": 0.05, "n": 2},
    {"temperature": 1.0, "seed": 3, "structured_outputs": REGEX, "ignore_eos": False, "n": 2, "logprobs": 1},
    {"temperature": 0, "stop": list("abcdefghijklm"), "logprobs": 0},
    {"temperature": 0.8, "seed": 4, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 0.9,
     "min_tokens": 4, "bad_words": ["xy"], "logit_bias": {70: 1.0}, "stop": ["z", "Q"], "logprobs": -1,
     "prompt_logprobs": 0, "n": 3, "structured_outputs": StructuredOutputsParams(regex="[A-Za-z]{20}")},
]  # fmt: skip


def run(
    folder: Path, wishes: list[tuple[int, dict[str, Any]]], **settings: Any
) -> tuple[dict[int, RequestOutput], int]:
    """Outputs by the number of the wish, and the preemptions; each request arrives a step after the one before."""
    engine = make_engine(folder, debug_checks=True, **settings)
    waiting, numbers, done = list(wishes), {}, {}
    while waiting or engine.has_requests:
        if waiting:
            number, wish = waiting.pop(0)
            prompt = [5 + number, 6, 7, *range(20, 20 + 2 * number)]
            numbers[engine.add_request(prompt, SamplingParams(**{**LIMIT, **wish})).id] = number
        for output in engine.step():
            done[numbers[output.request_id]] = output
    assert_idle(engine)
    return done, engine.scheduler.num_preemptions


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_num_batched_tokens": 5},
        {"max_num_seqs": 3, "batching": "static"},
        {"page_size": 4, "num_pages": 14, "max_num_batched_tokens": 11},
        {"reuse_kv": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("backwards", [False, True])
def test_each_gets_what_it_gets_alone(oracle: Oracle, settings: dict[str, Any], backwards: bool) -> None:
    wishes = list(enumerate(WISHES))
    alone = {number: run(oracle.folder, [(number, wish)])[0][number] for number, wish in wishes}
    together, preemptions = run(oracle.folder, wishes[::-1] if backwards else wishes, **settings)
    assert bool(preemptions) == ("num_pages" in settings)
    for number, expected in alone.items():
        got = together[number]
        assert len(got.outputs) == len(expected.outputs)
        for one, other in zip(got.outputs, expected.outputs):
            assert (one.token_ids, one.text, one.finish_reason) == (other.token_ids, other.text, other.finish_reason)
            assert one.cumulative_logprob == pytest.approx(other.cumulative_logprob, abs=1e-3)
            assert [len(entry) for entry in one.logprobs or []] == [len(entry) for entry in other.logprobs or []]
        assert len(got.prompt_logprobs or []) == len(expected.prompt_logprobs or [])
