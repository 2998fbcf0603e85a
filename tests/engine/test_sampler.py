"""Sampling against a reference in numpy, row by row; and seeds that depend on nothing but themselves."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Oracle
from torch import Tensor
from workload import Job, make_engine, run_jobs

from minillm import SamplingParams, StructuredOutputsParams
from minillm.sampling.sampler import SamplingBatch, draw, keep_top, parts_of, sample, uniform_from

ALL = np.iinfo(np.int64).max


def batch(
    rows: int, temperature: float | list[float] = 1.0, top_k: int | list[int] = ALL, top_p: float | list[float] = 1.0
) -> SamplingBatch:
    def column(value: object, dtype: torch.dtype) -> Tensor:
        return torch.tensor(value if isinstance(value, list) else [value] * rows, dtype=dtype)

    heat, k, p = column(temperature, torch.float32), column(top_k, torch.int64), column(top_p, torch.float32)
    drawn = heat.nonzero()[:, 0]  # the others are greedy
    return SamplingBatch(
        temperature=heat[drawn],
        top_k=k[drawn],
        top_p=p[drawn],
        seeds=torch.arange(rows)[drawn],
        positions=torch.full((len(drawn),), 5),
        any_filter=bool((p < 1).any() or (k < ALL).any()),
        drawn=drawn if len(drawn) < rows else None,
    )


def kept_by_hand(probs: np.ndarray, top_k: int, top_p: float) -> set[int]:
    """The tokens that top-k, then top-p leave of one row, in the plainest words: likeliest first, lower id first."""
    order = sorted(range(len(probs)), key=lambda token: (-probs[token], token))[:top_k]
    if top_p >= 1:
        return set(order)
    total = sum(float(probs[token]) for token in order)
    kept, mass = set(), 0.0
    for token in order:
        if kept and mass >= top_p * total:
            break
        kept.add(token)
        mass += float(probs[token])
    return kept


@given(
    weights=st.lists(st.integers(0, 40), min_size=2, max_size=40).filter(any),
    top_k=st.integers(1, 45),
    top_p=st.sampled_from([1e-6, 0.1, 0.25, 0.5, 0.9, 0.99, 1.0]),
)
@settings(max_examples=150)
def test_top_k_and_top_p_keep_what_a_plain_loop_keeps(weights: list[int], top_k: int, top_p: float) -> None:
    probs = torch.tensor(weights, dtype=torch.float64)[None] / sum(weights)  # many ties
    kept = keep_top(probs, torch.tensor([top_k]), torch.tensor([top_p], dtype=torch.float64))[0]
    # Tokens of no probability are left out either way; where the sum hits top_p exactly, rounding may decide.
    expected = {t for t in kept_by_hand(probs[0].numpy(), top_k, top_p) if weights[t]}
    nearly = {t for t in kept_by_hand(probs[0].numpy(), top_k, top_p * (1 - 1e-9)) if weights[t]}
    more = {t for t in kept_by_hand(probs[0].numpy(), top_k, min(top_p * (1 + 1e-9), 1)) if weights[t]}
    got = set(kept.nonzero()[:, 0].tolist())
    assert got in (expected, nearly, more)
    assert torch.equal(kept[list(got)], probs[0, list(got)])  # their probabilities are untouched


def test_rows_with_different_settings_do_not_disturb_each_other() -> None:
    probs = torch.softmax(torch.randn(4, 50) * 2, dim=-1)
    ks, ps = [ALL, 3, 20, 1], [0.7, 1.0, 0.5, 0.2]
    together = keep_top(probs, torch.tensor(ks), torch.tensor(ps))
    for row, (k, p) in enumerate(zip(ks, ps)):
        assert torch.equal(together[row], keep_top(probs[row : row + 1], torch.tensor([k]), torch.tensor([p]))[0])
        assert set(together[row].nonzero()[:, 0].tolist()) == kept_by_hand(probs[row].double().numpy(), min(k, 50), p)


@pytest.mark.parametrize("top_p", [1e-9, 1e-45, 1e-60])
def test_a_tiny_top_p_keeps_exactly_the_likeliest(top_p: float) -> None:
    """Even one that is no more than 0 in float32."""
    probs = torch.softmax(torch.randn(6, 30), dim=-1)
    kept = keep_top(probs, torch.full((6,), ALL), torch.full((6,), top_p))
    assert torch.equal(kept.count_nonzero(dim=1), torch.ones(6, dtype=torch.int64))
    assert torch.equal(kept.argmax(dim=1), probs.argmax(dim=1))


def test_greedy_takes_the_highest_logit_and_of_equal_ones_the_first() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [5.0, 5.0, 5.0, 5.0], [1.0, 2.0, 3.0, 4.0]])
    assert sample(logits, None).tolist() == [1, 0, 3]
    assert sample(logits, batch(3, temperature=0.0)).tolist() == [1, 0, 3]


@pytest.mark.parametrize("limit", [{"top_k": 1}, {"top_p": 1e-6}])
def test_keeping_one_token_is_greedy_at_any_temperature(limit: dict[str, float]) -> None:
    logits = torch.randn(200, 60)
    for temperature in (0.1, 1.0, 50.0):
        settings = batch(200, temperature=temperature, **limit)  # type: ignore[arg-type]
        assert torch.equal(sample(logits, settings), logits.argmax(dim=1))


def test_greedy_and_sampled_rows_in_one_batch() -> None:
    logits = torch.randn(50, 40)
    mixed = batch(50, temperature=[0.0, 1.0] * 25)
    tokens = sample(logits, mixed)
    assert torch.equal(tokens[::2], logits[::2].argmax(dim=1))
    assert torch.equal(tokens[1::2], sample(logits, batch(50))[1::2])


@pytest.mark.parametrize("temperature", [1e-3, 1e-10, 1e-30, 1e-38])
def test_a_very_low_temperature_is_nearly_greedy_and_never_overflows(temperature: float) -> None:
    logits = torch.randn(100, 50) * 10
    assert torch.equal(sample(logits, batch(100, temperature=temperature)), logits.argmax(dim=1))


def test_a_very_high_temperature_is_nearly_uniform() -> None:
    tokens = sample(torch.randn(1, 4).expand(4000, 4), batch(4000, temperature=1e30))
    assert all(900 < count < 1100 for count in Counter(tokens.tolist()).values())


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, ALL, 1.0), (0.5, ALL, 1.0), (2.0, 6, 1.0), (1.0, ALL, 0.8), (1.3, 7, 0.9)]
)
def test_draws_follow_the_distribution(temperature: float, top_k: int, top_p: float) -> None:
    """Pearson's chi-square over 20 000 draws with fixed seeds, below what a fair sampler exceeds once in about 10 000
    times."""
    V, N = 12, 20_000
    logits = torch.randn(V) * 1.5
    probs = np.exp(logits.double().numpy() / temperature)
    probs /= probs.sum()
    kept = kept_by_hand(probs, top_k, top_p)
    expected = np.array([probs[t] if t in kept else 0.0 for t in range(V)])
    expected *= N / expected.sum()
    counts = np.bincount(sample(logits.expand(N, V), batch(N, temperature, top_k, top_p)).numpy(), minlength=V)
    assert counts[expected == 0].sum() == 0
    used = expected > 0
    chi_square = ((counts - expected)[used] ** 2 / expected[used]).sum()
    freedom = used.sum() - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom) + 8, f"chi-square {chi_square} with {freedom} degrees"


def test_draw_never_takes_a_token_of_no_probability() -> None:
    probs = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).expand(5, 5)
    edges = torch.tensor([1e-300, 0.4999999, 0.5, 0.9999999, 1 - 2.0**-53], dtype=torch.float64)
    assert draw(probs, edges).tolist() == [1, 1, 3, 3, 3]


def test_draw_takes_probabilities_that_do_not_add_up_to_one() -> None:
    """top-k leaves probabilities as they are; only their ratios count."""
    probs = torch.tensor([[0.1, 0.3, 0.0]]).expand(4, 3)
    assert draw(probs, torch.tensor([0.1, 0.24, 0.26, 0.999], dtype=torch.float64)).tolist() == [0, 0, 1, 1]


def test_uniform_numbers_lie_strictly_between_0_and_1() -> None:
    ends = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 2**62])
    for position in (0, 1, 255, 2**40):
        uniform = uniform_from(ends, torch.full_like(ends, position))
        assert ((uniform > 0) & (uniform < 1)).all()


@pytest.mark.parametrize("varied", ["seed", "position", "both"])
def test_uniform_numbers_are_well_spread(varied: str) -> None:
    """Neighbouring seeds and positions, as they come in practice, fill 64 boxes evenly and do not follow each other."""
    N = 64_000
    count, same = torch.arange(N), torch.full((N,), 3)
    seeds, positions = {"seed": (count, same), "position": (same, count), "both": (count % 253, count // 253)}[varied]
    uniform = uniform_from(seeds, positions)
    boxes = torch.bincount((uniform * 64).long(), minlength=64).double()
    chi_square = float(((boxes - N / 64) ** 2 / (N / 64)).sum())
    assert 25 < chi_square < 125, chi_square  # 63 degrees of freedom
    pairs = torch.corrcoef(torch.stack([uniform[1:], uniform[:-1]]))[0, 1]
    assert abs(float(pairs)) < 0.02
    assert len(set(uniform.tolist())) == N


def test_uniform_numbers_are_splitmix64s() -> None:
    """The published generator, in Python's own integers: seed + n * golden ratio, mixed twice, upper 52 bits."""
    mask = 2**64 - 1

    def splitmix(seed: int, n: int) -> float:
        z = (seed + n * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return ((z ^ (z >> 31)) >> 12) * 2.0**-52 + 2.0**-53

    seeds, positions = [0, 1, 7, 2**62, 2**63 - 1], [0, 1, 2, 1000]
    for seed in seeds:
        got = uniform_from(torch.full((4,), seed), torch.tensor(positions))
        assert got.tolist() == [splitmix(seed, position + 1) for position in positions]


# --- in parts


def test_rows_are_cut_into_parts_that_hold_them_all() -> None:
    assert len(parts_of(64, 40_000)) == 1 and len(parts_of(256, 150_000)) == 5 and len(parts_of(2, 10**9)) == 2
    assert [row for part in parts_of(257, 150_000) for row in range(257)[part]] == list(range(257))


def test_edits_in_parts_are_the_same(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row a part of its own: grammar, bias, bad words, min_tokens and penalties, of some rows and of all."""
    settings: list[dict[str, Any]] = [
        {"structured_outputs": StructuredOutputsParams(regex="[a-z]{9}"), "frequency_penalty": 1.0},
        {"structured_outputs": StructuredOutputsParams(regex="[0-9]{5}"), "repetition_penalty": 1.5},
        {"logit_bias": {7: 3.0}, "bad_words": ["a", "bc"], "presence_penalty": 1.0},
        {"allowed_token_ids": [30, 31, 32], "min_tokens": 5, "repetition_penalty": 1.2},
    ]  # fmt: skip

    def tokens() -> list[list[int]]:
        engine = make_engine(oracle.folder)
        requests = [engine.add_request([5, 6, i], SamplingParams(seed=i, **one)) for i, one in enumerate(settings)]
        while engine.has_requests:
            engine.step()
        return [request.output_ids for request in requests]

    whole = tokens()
    monkeypatch.setattr("minillm.sampling.sampler.PART", 1)
    assert tokens() == whole


# --- seeds, through the whole engine

PROMPT = tuple(range(30, 50))


def seeded(seed: int | None, **others: int | float) -> Job:
    return Job(PROMPT, 16, temperature=1.0, seed=seed, **others)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_text_and_another_seed_another(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder)
    run = run_jobs(engine, [seeded(5), seeded(5), seeded(6)])
    assert run.tokens(0) == run.tokens(1) != run.tokens(2)
    assert run_jobs(engine, [seeded(5)]).tokens(0) == run.tokens(0)


def test_a_seed_does_not_depend_on_the_batch_or_on_what_ran_before(oracle: Oracle) -> None:
    alone = run_jobs(make_engine(oracle.folder), [seeded(11)]).tokens(0)
    engine = make_engine(oracle.folder, max_num_batched_tokens=23)
    others = [Job((i + 3,) * i, 12, arrives=i % 4, temperature=0.7, top_k=9) for i in range(1, 9)]
    run = run_jobs(engine, [*others[:4], seeded(11, arrives=3), *others[4:]])
    assert run.tokens(4) == alone


def test_without_a_seed_requests_differ_from_each_other_but_a_second_run_repeats_them(oracle: Oracle) -> None:
    def run(engine_seed: int) -> list[list[int]]:
        engine = make_engine(oracle.folder, seed=engine_seed)
        done = run_jobs(engine, [seeded(None), seeded(None)])
        return [done.tokens(0), done.tokens(1)]

    first, second = run(0)
    assert first != second
    assert run(0) == [first, second]
    assert run(1)[0] != first


@pytest.mark.parametrize("seed", [-2, -(2**70), 2**64 + 3, 2**63])
def test_any_integer_is_a_seed(oracle: Oracle, seed: int) -> None:
    engine = make_engine(oracle.folder)
    run = run_jobs(engine, [seeded(seed), seeded(seed)])
    assert run.tokens(0) == run.tokens(1)


def test_top_k_of_one_and_a_tiny_top_p_give_the_greedy_text(oracle: Oracle) -> None:
    greedy = oracle.greedy(list(PROMPT), 16)
    run = run_jobs(make_engine(oracle.folder), [seeded(1, top_k=1), seeded(2, top_p=1e-7), seeded(3, top_k=-1)])
    assert run.tokens(0) == run.tokens(1) == greedy
    assert run.tokens(2) != greedy
