"""What is refused, by its name, and before anything is queued."""

import re
from typing import Any

import numpy as np
import pytest
from tiny import Oracle
from workload import assert_idle, make_engine

from minillm.engine.engine import Engine
from minillm.request import SamplingParams

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"min_p": -0.01}, "min_p is -0.01; it must be a share between 0"),
        ({"min_p": 1.01}, "min_p is 1.01"),
        ({"min_p": NAN}, "min_p is nan"),
        ({"min_p": "a"}, "min_p is 'a'"),
        ({"temperature": "hot"}, "temperature is hot"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; it must be above 0"),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0"),
        ({"repetition_penalty": INF}, "repetition_penalty is inf"),
        ({"presence_penalty": 2.01}, "presence_penalty is 2.01; it must be a number between -2 and 2"),
        ({"presence_penalty": NAN}, "presence_penalty is nan"),
        ({"frequency_penalty": -2.01}, "frequency_penalty is -2.01"),
        ({"logit_bias": [5]}, "logit_bias is [5]; it must map token ids to numbers"),
        ({"logit_bias": {"a": 1.0}}, "logit_bias has 'a': 1.0"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias has -1: 1.0"),
        ({"logit_bias": {3: INF}}, "logit_bias has 3: inf"),
        ({"logit_bias": {3: NAN}}, "logit_bias has 3: nan"),
        ({"allowed_token_ids": []}, "allowed_token_ids is empty"),
        ({"allowed_token_ids": [1, -2]}, "allowed_token_ids has -2"),
        ({"stop_token_ids": [1.5]}, "stop_token_ids has 1.5"),
        ({"bad_words": [""]}, "bad_words has ''"),
        ({"bad_words": ["a", " "]}, "bad_words has ' '"),
        ({"bad_words": [3]}, "bad_words has 3"),
        ({"min_tokens": -1}, "min_tokens is -1"),
        ({"min_tokens": 1.5}, "min_tokens is 1.5"),
        ({"min_tokens": 17}, "min_tokens is 17, which is more than max_tokens (16)"),
        ({"stop": ""}, "stop has ''"),
        ({"stop": ["a", ""]}, "stop has ''"),
        ({"stop": [1]}, "stop has 1"),
        ({"logprobs": -2}, "logprobs is -2"),
        ({"logprobs": 1.5}, "logprobs is 1.5"),
        ({"prompt_logprobs": -5}, "prompt_logprobs is -5"),
        ({"n": 0}, "n is 0; it must be at least 1"),
        ({"n": 1.5}, "n is 1.5"),
        ({"n": 2, "temperature": 0}, "n is 2, but temperature 0 gives the same answer each time"),
        ({"n": 16385}, "n is 16385; it must be at least 1 and at most 16384"),
        ({"temperature": 1e39}, "temperature is 1e+39"),
        ({"repetition_penalty": 1e-46}, "repetition_penalty is 1e-46; it must be above 0"),
        ({"repetition_penalty": 1e39}, "repetition_penalty is 1e+39"),
        ({"logit_bias": {3: 1e39}}, "logit_bias has 3: 1e+39; it must map token ids to finite numbers"),
        ({"logit_bias": {3: 10**400}}, "logit_bias has 3: 1000"),
        ({"stop": 5}, "stop is 5; it must be a list"),
        ({"stop_token_ids": 5}, "stop_token_ids is 5; it must be a list"),
        ({"allowed_token_ids": 5}, "allowed_token_ids is 5; it must be a list"),
        ({"bad_words": 5}, "bad_words is 5; it must be a list"),
        ({"detokenize": False, "stop": "a"}, "stop looks at the answer's text, and with detokenize=False there is"),
        ({"structured_outputs": {"json": {}}}, "structured_outputs is {'json': {}}; it must be a Struct"),
    ],
)
def test_out_of_range(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        SamplingParams(**settings)


EDGES = [
    {"min_p": 0}, {"min_p": 1}, {"repetition_penalty": 1e-6}, {"repetition_penalty": 1e6}, {"presence_penalty": -2},
    {"presence_penalty": 2}, {"frequency_penalty": 2}, {"logit_bias": {}}, {"logit_bias": {0: -100, 257: 100}},
    {"allowed_token_ids": [0, 257]}, {"stop_token_ids": None}, {"bad_words": None}, {"bad_words": "ab"}, {"stop": None},
    {"stop": "x"}, {"stop": []}, {"min_tokens": 2, "max_tokens": 2}, {"min_tokens": 6, "max_tokens": None},
    {"logprobs": 0}, {"logprobs": 258}, {"logprobs": -1}, {"prompt_logprobs": 258}, {"n": 1}, {"n": 40},
    {"allowed_token_ids": list(range(258)) * 2}, {"allowed_token_ids": (5, 6)}, {"allowed_token_ids": {5, 6}},
    {"allowed_token_ids": np.array([5, 6])}, {"top_k": 2**63}, {"top_k": 10**30}, {"temperature": 1e-46},
    {"logit_bias": {5: 3e38}}, {"repetition_penalty": 2.0**-126}, {"detokenize": False},
    {"temperature": 1e-9, "min_p": 1, "repetition_penalty": 1e6},
]  # fmt: skip


@pytest.mark.parametrize("settings", EDGES, ids=str)
def test_the_edges_work(oracle: Oracle, settings: dict[str, Any]) -> None:
    engine = make_engine(oracle.folder, num_pages=1000)
    engine.add_request([5] * 250, SamplingParams(**{"max_tokens": 2, **settings}))
    while engine.has_requests:
        engine.step()
    assert_idle(engine)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"logprobs": 259}, "logprobs is 259, but the vocabulary has 258 tokens; -1 asks for all"),
        ({"prompt_logprobs": 259}, "prompt_logprobs is 259"),
        ({"allowed_token_ids": [3, 258]}, "allowed_token_ids has 258, but the vocabulary has ids 0 to 257"),
        ({"logit_bias": {1000: 1.0}}, "logit_bias has 1000"),
        ({"stop_token_ids": [258]}, "stop_token_ids has 258"),
        ({"min_tokens": 7, "max_tokens": None}, "min_tokens is 7, but the context limit leaves room for 6 tokens"),
    ],
)
def test_what_the_model_makes_impossible(oracle: Oracle, settings: dict[str, Any], says: str) -> None:
    engine: Engine = make_engine(oracle.folder)
    with pytest.raises(ValueError, match=re.escape(says)):
        engine.add_request([5] * 250, SamplingParams(**settings))
    assert_idle(engine)


@pytest.mark.parametrize("ids", [(5, 6), {5, 6}, range(5, 7), np.array([5, 6])], ids=str)
def test_token_ids_may_come_in_any_collection(oracle: Oracle, ids: Any) -> None:
    """And another request in the same batch notices nothing."""
    engine: Engine = make_engine(oracle.folder)
    params = SamplingParams(max_tokens=6, allowed_token_ids=ids)
    assert params.allowed_token_ids == SamplingParams(stop_token_ids=ids).stop_token_ids == [5, 6]
    assert params.allowed_token_ids is not None and {type(token) for token in params.allowed_token_ids} == {int}
    limited, other = engine.add_request([5], params), engine.add_request([7], SamplingParams(temperature=0))
    while engine.has_requests:
        engine.step()
    assert len(limited.output_ids) == 6 and other.output_ids == oracle.greedy([7], 16)
    assert_idle(engine)


def test_what_float32_cannot_hold_does_not_choose_for_ever_the_first_token(oracle: Oracle) -> None:
    """The largest bias that there may be is sure of its token."""
    for settings in ({"logit_bias": {7: 3e38}}, {"logit_bias": {7: 3e38}, "top_k": 2**63, "top_p": 0.9}):
        engine: Engine = make_engine(oracle.folder)
        request = engine.add_request([5, 6], SamplingParams(max_tokens=4, **settings))
        while engine.has_requests:
            engine.step()
        assert request.output_ids == [7] * 4


def test_what_is_changed_after_it_was_queued_changes_nothing(oracle: Oracle) -> None:
    engine: Engine = make_engine(oracle.folder)
    params = SamplingParams(temperature=0, max_tokens=8)
    request = engine.add_request([5, 6], params)
    params.temperature, params.logprobs, params.seed = 1.5, 3, 3
    while engine.has_requests:
        engine.step()
    assert request.output_ids == oracle.greedy([5, 6], 8)


def test_without_detokenization_there_is_no_text(oracle: Oracle) -> None:
    engine: Engine = make_engine(oracle.folder)
    engine.add_request([5, 6], SamplingParams(temperature=0, max_tokens=8, detokenize=False))
    outputs = [output for _ in range(20) for output in engine.step()]
    (answer,) = outputs[0].outputs
    assert (answer.text, answer.token_ids) == ("", oracle.greedy([5, 6], 8))


@pytest.mark.parametrize("temperature", [0, 1e-46, 5e-324])
def test_a_temperature_that_is_nothing_as_float32_is_greedy(oracle: Oracle, temperature: float) -> None:
    engine: Engine = make_engine(oracle.folder)
    params = SamplingParams(temperature=temperature, max_tokens=8)
    request = engine.add_request([5, 6], params)
    while engine.has_requests:
        engine.step()
    assert params.greedy and request.output_ids == oracle.greedy([5, 6], 8)


def test_a_seed_of_minus_one_is_none() -> None:
    assert SamplingParams(seed=-1).seed is None


def test_defaults_are_vllms() -> None:
    params = SamplingParams()
    assert (params.temperature, params.top_p, params.top_k, params.min_p, params.seed) == (1.0, 1.0, 0, 0.0, None)
    assert (params.repetition_penalty, params.frequency_penalty, params.presence_penalty) == (1.0, 0.0, 0.0)
    assert (params.n, params.max_tokens, params.min_tokens, params.logprobs, params.prompt_logprobs) == (
        1,
        16,
        0,
        None,
        None,
    )
    assert (params.stop, params.stop_token_ids, params.bad_words, params.logit_bias) == ([], [], [], None)
    assert not params.include_stop_str_in_output and not params.ignore_eos and params.skip_special_tokens
