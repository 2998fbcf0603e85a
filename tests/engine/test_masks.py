"""Which tokens may be chosen: min-p, bias, allowed tokens, bad words, min_tokens; and rules that contradict each
other."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Oracle
from transformers import MinPLogitsWarper, NoBadWordsLogitsProcessor
from workload import EOS, Job, assert_idle, make_engine, run_jobs

from minillm.hub import ASSETS
from minillm.request import RequestOutput, SamplingParams
from minillm.sampling.bad_words import BadWords
from minillm.sampling.masks import keep_some, unpack
from minillm.sampling.sampler import keep_min_p
from minillm.scheduler.plan import Joining
from minillm.text.intake import bad_word_ids
from minillm.text.tokenizer import Tokenizer

PROMPT = [5, 6, 7]


def generate(oracle: Oracle, prompt: list[int], **params: Any) -> RequestOutput:
    engine = make_engine(oracle.folder, debug_checks=True)
    engine.add_request(prompt, SamplingParams(**{"temperature": 0, "max_tokens": 16, "ignore_eos": True, **params}))
    outputs: list[RequestOutput] = []
    while engine.has_requests:
        outputs += engine.step()
    assert_idle(engine)
    (output,) = outputs
    return output


def tokens(oracle: Oracle, **params: Any) -> list[int]:
    return generate(oracle, PROMPT, **params).outputs[0].token_ids


# --- min-p


@pytest.mark.parametrize(
    ("min_p", "kept"),
    [
        (0.0, [0.5, 0.25, 0.125, 0.125, 0.0]),
        (0.25, [0.5, 0.25, 0.125, 0.125, 0.0]),  # 0.25 * 0.5 = 0.125: as likely is enough
        (0.26, [0.5, 0.25, 0.0, 0.0, 0.0]),
        (0.5, [0.5, 0.25, 0.0, 0.0, 0.0]),
        (0.51, [0.5, 0.0, 0.0, 0.0, 0.0]),
        (1.0, [0.5, 0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_min_p_worked_values(min_p: float, kept: list[float]) -> None:
    probs = torch.tensor([[0.5, 0.25, 0.125, 0.125, 0.0]])
    assert keep_min_p(probs, torch.tensor([min_p])).tolist() == [kept]


def test_min_p_of_one_keeps_all_that_are_as_likely_as_the_likeliest() -> None:
    assert keep_min_p(torch.tensor([[0.375, 0.25, 0.375]]), torch.ones(1)).tolist() == [[0.375, 0.0, 0.375]]


@pytest.mark.parametrize("min_p", [0.01, 0.1, 0.3, 0.9])
def test_min_p_is_transformers(min_p: float) -> None:
    logits = torch.randn(20, 50) * 2
    expected = MinPLogitsWarper(min_p)(torch.zeros(20, 1, dtype=torch.int64), logits) > -math.inf
    got = keep_min_p(logits.softmax(dim=-1), torch.full((20,), min_p)) > 0
    assert torch.equal(got, expected)


def test_min_p_of_one_is_greedy_at_any_temperature(oracle: Oracle) -> None:
    greedy = oracle.greedy(PROMPT, 16)
    assert tokens(oracle, temperature=3.0, seed=4, min_p=1.0) == greedy != tokens(oracle, temperature=3.0, seed=4)


# --- bias and allowed tokens


def test_a_large_bias_forces_and_forbids(oracle: Oracle) -> None:
    assert tokens(oracle, logit_bias={77: 100.0}) == [77] * 16
    first = oracle.greedy(PROMPT, 1)[0]
    assert first not in tokens(oracle, logit_bias={first: -100.0})


def test_only_allowed_tokens_are_chosen(oracle: Oracle) -> None:
    assert set(tokens(oracle, allowed_token_ids=[9, 10, 200])) <= {9, 10, 200}
    assert set(tokens(oracle, allowed_token_ids=[9, 10, 200], temperature=5.0, seed=1)) <= {9, 10, 200}
    assert tokens(oracle, allowed_token_ids=[42]) == [42] * 16


def test_a_bias_comes_on_top_of_what_is_allowed(oracle: Oracle) -> None:
    assert tokens(oracle, allowed_token_ids=[9, 10], logit_bias={10: 100.0, 11: 100.0}) == [10] * 16


# --- bad words


@given(
    answer=st.lists(st.integers(0, 4), max_size=8),
    words=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=4),
)
@settings(max_examples=150)
def test_bad_words_are_transformers(answer: list[int], words: list[list[int]]) -> None:
    """With the answer alone as what was said. (transformers wants no word to be the end token, so that is another.)"""
    control = BadWords(3, torch.device("cpu"))
    control.join(2, Joining(SamplingParams(), 0, bad_words=[[9, 9, 9, 9, 9]]))  # another seat, with a longer word
    cut = len(answer) // 2  # some of it said before it joined, some after
    control.join(1, Joining(SamplingParams(), 0, output_ids=answer[:cut], bad_words=words))
    where, rows = torch.tensor([0]), torch.tensor(control.seats.row_of[[1]])
    for token in answer[cut:]:
        control.record(torch.tensor([token]), rows)
    logits = control.apply(torch.zeros(1, 6), where, rows)
    # Older ones overlook a word that is as long as all that was said and its next token: so something was said before.
    said = torch.tensor([[5, 5, 5, 5, *answer]], dtype=torch.int64)
    expected = NoBadWordsLogitsProcessor(words, eos_token_id=5)(said, torch.zeros(1, 6))
    assert torch.equal(logits, expected)


def test_a_seat_that_joins_with_longer_words_leaves_the_others_theirs() -> None:
    control = BadWords(3, torch.device("cpu"))
    control.join(0, Joining(SamplingParams(), 0, output_ids=[1], bad_words=[[1, 2]]))
    control.join(1, Joining(SamplingParams(), 0, output_ids=[4, 5, 6], bad_words=[[4, 5, 6, 7], [3]]))
    logits = control.apply(torch.zeros(2, 8), torch.tensor([0, 1]), torch.tensor(control.seats.row_of[:2]))
    assert [(row == -math.inf).nonzero()[:, 0].tolist() for row in logits] == [[2], [3, 7]]


def test_a_bad_word_is_never_said(oracle: Oracle) -> None:
    tokenizer = Tokenizer(oracle.folder)
    free = oracle.greedy(PROMPT, 16)
    pair = next(p for p in pairwise(free) if tokenizer.encode(tokenizer.decode(list(p))) == list(p))
    got = tokens(oracle, bad_words=[tokenizer.decode(list(pair))])
    assert pair not in pairwise(got) and got != free
    at = next(i for i, p in enumerate(pairwise(free)) if p == pair)
    assert got[: at + 1] == free[: at + 1], "until then nothing changes"


def test_where_a_space_is_a_token_of_its_own_the_word_alone_is_enough(oracle: Oracle) -> None:
    tokenizer = Tokenizer(oracle.folder)  # of bytes
    assert bad_word_ids(["ab", " c"], tokenizer) == [tokenizer.encode("ab"), tokenizer.encode("c")]


def test_a_word_is_bad_after_a_space_too_if_that_is_one_more_way_to_write_it() -> None:
    tokenizer = Tokenizer(ASSETS / "nano-llama")
    plain, spaced = (
        tokenizer.encode("cache", add_special_tokens=False),
        tokenizer.encode(" cache", add_special_tokens=False),
    )
    found = bad_word_ids(["cache"], tokenizer)
    assert found[0] == plain
    assert (spaced in found) == (len(spaced) == len(plain) and spaced[0] != plain[0])
    assert bad_word_ids([" cache"], tokenizer) == found  # a space in front is taken off first


# --- min_tokens


def test_no_end_before_min_tokens(oracle: Oracle) -> None:
    free = oracle.greedy(PROMPT, 16)
    stop = free[2]
    assert len(tokens(oracle, stop_token_ids=[stop])) == free.index(stop) + 1
    got = tokens(oracle, stop_token_ids=[stop], min_tokens=6)
    assert stop not in got[:6] and len(got) > 6


@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_first_token_after_min_tokens_may_end_it(oracle: Oracle, count: int) -> None:
    """The end token is what the model wants most, each time; it comes as soon as it may."""
    got = generate(oracle, PROMPT, min_tokens=count, logit_bias={EOS: 100.0}, ignore_eos=False).outputs[0]
    assert len(got.token_ids) == count + 1 and got.token_ids[-1] == EOS and EOS not in got.token_ids[:-1]
    assert (got.finish_reason, got.stop_reason) == ("stop", None)


def test_min_tokens_counts_the_same_after_a_preemption(oracle: Oracle) -> None:
    jobs = [Job((5, 6, 7), 20, min_tokens=12, stop=tuple(range(2, 130))), Job((9, 10), 20), Job((11, 12), 20)]
    engine = make_engine(oracle.folder, page_size=4, num_pages=8)
    run = run_jobs(engine, jobs)
    assert engine.scheduler.num_preemptions > 0
    assert run.tokens(0) == run_jobs(make_engine(oracle.folder), jobs[:1]).tokens(0)
    assert not set(run.tokens(0)[:12]) & set(jobs[0].stop)


# --- contradictions


def test_keep_some_passes_over_what_would_leave_nothing() -> None:
    before, none = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), -math.inf
    after = torch.tensor([[none, none], [none, 4.0]])
    assert keep_some(before, after).tolist() == [[1.0, 2.0], [none, 4.0]]


def test_rules_that_contradict_each_other_still_give_a_token_that_is_allowed(oracle: Oracle) -> None:
    word = Tokenizer(oracle.folder).decode([42])
    assert tokens(oracle, allowed_token_ids=[42], bad_words=[word]) == [42] * 16
    got = generate(oracle, PROMPT, allowed_token_ids=[EOS], min_tokens=5, ignore_eos=False).outputs[0]
    assert got.token_ids == [EOS] and got.finish_reason == "stop"
    assert tokens(oracle, allowed_token_ids=[42], bad_words=[word], temperature=1.0, seed=1) == [42] * 16


def test_unpack_reads_bits_from_the_least_significant_on() -> None:
    bits = torch.tensor([[0b101, -(2**31)], [-1, 0]], dtype=torch.int32)
    allowed = unpack(bits, 64)
    assert allowed[0].nonzero()[:, 0].tolist() == [0, 2, 63]
    assert allowed[1].nonzero()[:, 0].tolist() == list(range(32))
    assert unpack(bits, 40).shape == (2, 40)
