"""Penalties: values worked out by hand, a plain loop, and transformers where its definition is the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Oracle
from transformers import RepetitionPenaltyLogitsProcessor
from workload import Job, greedy_by_hand, make_engine, run_jobs

from minillm.request import SamplingParams
from minillm.sampling.penalties import apply_penalties
from minillm.sampling.state import PENALTIES

#      token:     0     1     2     3
LOGITS = [2.0, -2.0, 0.0, 4.0]
PROMPT = [True, True, False, False]
ANSWER = [0, 1, 0, 3]  # how often


@pytest.mark.parametrize(
    ("repetition", "frequency", "presence", "expected"),
    [
        (1.0, 0.0, 0.0, [2.0, -2.0, 0.0, 4.0]),  # nothing
        (2.0, 0.0, 0.0, [1.0, -4.0, 0.0, 2.0]),  # prompt and answer; above 0 divided, below multiplied
        (0.5, 0.0, 0.0, [4.0, -1.0, 0.0, 8.0]),  # below 1, what was said becomes likelier
        (1.0, 0.5, 0.0, [2.0, -2.5, 0.0, 2.5]),  # the answer alone, once a time: 4 - 3 * 0.5
        (1.0, 0.0, 1.5, [2.0, -3.5, 0.0, 2.5]),  # the answer alone, once
        (1.0, -1.0, 0.0, [2.0, -1.0, 0.0, 7.0]),  # below 0, it becomes likelier
        (2.0, 0.5, 1.5, [1.0, -6.0, 0.0, -1.0]),  # all: repetition first: -2 * 2 - 0.5 - 1.5; 4 / 2 - 1.5 - 1.5
    ],
)
def test_worked_values(repetition: float, frequency: float, presence: float, expected: list[float]) -> None:
    strengths = (torch.tensor([value]) for value in (repetition, frequency, presence))
    logits = torch.tensor([LOGITS])
    got = apply_penalties(logits, torch.tensor([PROMPT]), torch.tensor([ANSWER]), *strengths)
    assert got.tolist() == [expected]
    assert logits.tolist() == [LOGITS], "the logits themselves are left alone"


def test_what_is_forbidden_stays_forbidden() -> None:
    ones = torch.ones(1)
    logits = torch.tensor([[-float("inf"), 1.0]])
    got = apply_penalties(logits, torch.tensor([[True, True]]), torch.tensor([[2, 2]]), 0.5 * ones, -ones, -ones)
    assert got.tolist() == [[-float("inf"), 5.0]]


@given(
    prompt=st.lists(st.integers(0, 19), min_size=1, max_size=12),
    answer=st.lists(st.integers(0, 19), max_size=12),
    repetition=st.floats(0.1, 4),
)
@settings(max_examples=60)
def test_repetition_is_transformers(prompt: list[int], answer: list[int], repetition: float) -> None:
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(len(prompt)))
    in_prompt = torch.zeros(1, 20, dtype=torch.bool)
    in_prompt[0, prompt] = True
    counts = torch.bincount(torch.tensor(answer, dtype=torch.int64), minlength=20)[None]
    none = torch.zeros(1)
    got = apply_penalties(logits, in_prompt, counts, torch.tensor([repetition]), none, none)
    expected = RepetitionPenaltyLogitsProcessor(repetition)(torch.tensor([prompt + answer]), logits.clone())
    torch.testing.assert_close(got, expected)


def test_each_row_has_its_own_strengths() -> None:
    logits, counts = torch.randn(3, 8), torch.randint(0, 3, (3, 8))
    in_prompt = torch.randint(0, 2, (3, 8)).bool()
    repetition, frequency, presence = (
        torch.tensor([1.0, 1.5, 0.7]),
        torch.tensor([0.0, 1, -1]),
        torch.tensor([2.0, 0, 1]),
    )
    together = apply_penalties(logits, in_prompt, counts, repetition, frequency, presence)
    for i in range(3):
        row = slice(i, i + 1)
        alone = apply_penalties(
            logits[row], in_prompt[row], counts[row], repetition[row], frequency[row], presence[row]
        )
        assert torch.equal(together[row], alone)


PENALISED = [
    Job((5, 6, 7, 5), 24, repetition=1.4),
    Job((8, 9), 24, frequency=0.8),
    Job((8, 9, 8), 24, presence=1.5),
    Job((30, 31), 24, presence=-1.0, frequency=-0.5, repetition=0.8),
]


def test_through_the_engine_greedy_text_is_what_a_loop_over_transformers_logits_gives(oracle: Oracle) -> None:
    """Preemptions and plain requests in the batch included: seats are left and taken again."""
    plain = [Job((i, i + 1), 20) for i in range(40, 44)]
    jobs = [job for pair in zip(PENALISED, plain) for job in pair]
    engine = make_engine(oracle.folder, page_size=4, num_pages=20, max_num_seqs=5)
    run = run_jobs(engine, jobs)
    assert engine.scheduler.num_preemptions > 0
    for index, job in enumerate(jobs):
        expected = greedy_by_hand(oracle.model, job)
        assert run.tokens(index) == expected
        if job.edited:
            assert expected != oracle.greedy(list(job.prompt), job.max_tokens), "a penalty that changes nothing"


def test_rows_for_counting_are_made_only_for_those_that_ask(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder, max_num_seqs=8)
    penalties = engine.runner.sampling.controls[PENALTIES]
    run_jobs(engine, [Job((5, 6), 4) for _ in range(6)])
    assert len(penalties.seats) == 0
    run_jobs(engine, [*(Job((5, 6), 4) for _ in range(6)), PENALISED[0]])
    assert len(penalties.seats) == 1
    for _ in range(3):  # and used again
        run_jobs(engine, PENALISED)
    assert len(penalties.seats) == 4
    run_jobs(engine, [Job((5, 6), 4) for _ in range(8)])  # all seats
    assert len(penalties.seats.free) == 4


def test_a_neutral_penalty_costs_nothing() -> None:
    assert not SamplingParams(repetition_penalty=1, frequency_penalty=0, presence_penalty=0).penalises
