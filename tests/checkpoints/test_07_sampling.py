"""Checkpoint 07: what a request asks of the sampler. Oracles: plain loops, transformers' processors, and to generate
all of a text and cut it afterwards."""

import itertools
from typing import Any

import torch
from exercises import PLAIN, close, random
from tiny import Oracle, hf_logits
from torch import Tensor
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor
from workload import assert_idle, make_engine

from minillm.request import SamplingParams
from minillm.sampling import penalties, sampler
from minillm.text import detokenizer

PROMPT = [5, 6, 7, 30, 6]


def penalised_by_hand(
    logits: Tensor, prompts: list[list[int]], answers: list[list[int]], strengths: list[tuple[float, float, float]]
) -> Tensor:
    """Row by row, token by token."""
    right = logits.clone()
    for row, (prompt, answer, (repetition, frequency, presence)) in enumerate(zip(prompts, answers, strengths)):
        for token in set(prompt + answer):
            score = float(logits[row, token])
            right[row, token] = score / repetition if score > 0 else score * repetition
        for token in set(answer):
            right[row, token] -= frequency * answer.count(token) + presence
    return right


class TestApplyPenalties:
    """7.1"""

    V = 12
    PROMPTS = ([1, 2, 2, 3], [9], [4, 5, 6])
    ANSWERS = ([3, 4, 4, 4, 5], [9, 9, 0], [])

    def penalised(self, strengths: list[tuple[float, float, float]], logits: Tensor) -> Tensor:
        in_prompt = torch.zeros(3, self.V, dtype=torch.bool)
        counts = torch.zeros(3, self.V, dtype=torch.int32)
        for row in range(3):
            in_prompt[row, self.PROMPTS[row]] = True
            for token in self.ANSWERS[row]:
                counts[row, token] += 1
        columns = (torch.tensor([one[i] for one in strengths]) for i in range(3))
        return penalties.apply_penalties(logits, in_prompt, counts, *columns)

    def check(self, *strengths: tuple[float, float, float]) -> None:
        logits = random(3, self.V, scale=3)
        right = penalised_by_hand(logits, list(self.PROMPTS), list(self.ANSWERS), list(strengths))
        said = f"(repetition, frequency, presence) of the requests: {strengths}; penalised logits"
        close(self.penalised(list(strengths), logits), right, said, "request token")

    def test_no_penalty_changes_nothing(self) -> None:
        self.check((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))

    def test_repetition_is_for_prompt_and_answer(self) -> None:
        self.check((1.5, 0.0, 0.0), (1.5, 0.0, 0.0), (1.5, 0.0, 0.0))

    def test_each_request_has_its_own(self) -> None:
        self.check((1.2, 0.0, 0.0), (2.0, 0.0, 0.0), (0.5, 0.0, 0.0))

    def test_frequency_counts_and_presence_does_not(self) -> None:
        self.check((1.0, 0.5, 0.0), (1.0, 0.0, 0.5), (1.0, 1.5, 1.5))

    def test_all_three_in_their_order(self) -> None:
        self.check((1.3, 0.4, 0.7), (2.0, -0.5, 1.0), (1.1, 1.0, -1.0))

    def test_what_comes_in_stays(self) -> None:
        logits = random(3, self.V)
        kept = logits.clone()
        self.penalised([(1.5, 0.5, 0.5)] * 3, logits)
        close(logits, kept, "the logits that came in, which must stay as they are", "request token")

    def test_repetition_is_transformers(self) -> None:
        logits = random(3, self.V, scale=3)
        got = self.penalised([(1.4, 0.0, 0.0)] * 3, logits)
        assert list(got.shape) == [3, self.V], (
            f"penalised logits have the shape {list(got.shape)}; [request, token] is {[3, self.V]}"
        )
        for row in range(3):
            known = torch.tensor([self.PROMPTS[row] + self.ANSWERS[row]])
            right = RepetitionPenaltyLogitsProcessor(1.4)(known, logits[row : row + 1].clone())
            close(got[row : row + 1], right, "logits after transformers' repetition penalty of 1.4", "request token")

    def test_the_engine_writes_what_hugging_face_writes(self, oracle: Oracle) -> None:
        right = list(PROMPT)
        for _ in range(12):
            known = torch.tensor([right])
            scores = hf_logits(oracle.model, right)[-1:].clone()
            right.append(int(RepetitionPenaltyLogitsProcessor(1.5)(known, scores).argmax()))
        got = answer(oracle, temperature=0, repetition_penalty=1.5)
        assert got == right[len(PROMPT) :], (
            f"the engine with repetition_penalty=1.5 writes tokens {got}, and {right[len(PROMPT) :]} is right"
        )


def answer(oracle: Oracle, **settings: Any) -> list[int]:
    """The tokens that an engine writes after PROMPT."""
    engine = make_engine(oracle.folder, **PLAIN)
    request = engine.add_request(PROMPT, SamplingParams(max_tokens=12, ignore_eos=True, **settings))
    while engine.has_requests:
        engine.step()
    assert_idle(engine)
    return request.output_ids


class TestKeepMinP:
    """7.2"""

    ROWS = ((0.5, 0.25, 0.125, 0.0625, 0.0625), (0.25, 0.25, 0.25, 0.125, 0.125))

    def kept(self, *min_p: float) -> list[list[int]]:
        got = sampler.keep_min_p(torch.tensor(self.ROWS), torch.tensor(min_p))
        assert list(got.shape) == [2, 5], (
            f"of probabilities [request, token] [2, 5] as many come back, at their places; the shape is "
            f"{list(got.shape)}"
        )
        return [[token for token, p in enumerate(row) if p] for row in got.tolist()]

    def check(self, *min_p: float) -> None:
        right = [
            [token for token, p in enumerate(row) if p >= share * max(row)] for row, share in zip(self.ROWS, min_p)
        ]
        got = self.kept(*min_p)
        for row in range(2):
            assert got[row] == right[row], (
                f"min_p={min_p[row]} of probabilities {self.ROWS[row]} (request {row}): tokens {got[row]} stay, and "
                f"{right[row]} is right"
            )

    def test_the_bar_is_a_share_of_the_likeliest(self) -> None:
        self.check(0.3, 0.6)

    def test_what_is_just_at_the_bar_stays(self) -> None:
        self.check(0.5, 0.5)
        self.check(0.25, 0.25)

    def test_each_request_has_its_own(self) -> None:
        self.check(0.2, 0.9)
        self.check(0.9, 0.2)

    def test_nothing_asked_keeps_all_and_one_keeps_the_likeliest(self) -> None:
        self.check(0.0, 0.0)
        self.check(1.0, 1.0)

    def test_what_stays_keeps_its_probability(self) -> None:
        right = torch.tensor([[0.5, 0.25, 0, 0, 0], [0.25, 0.25, 0.25, 0, 0]])
        got = sampler.keep_min_p(torch.tensor(self.ROWS), torch.tensor([0.5, 0.75]))
        close(got, right, "probabilities after min_p, not renormalised", "request token")

    def test_it_is_transformers(self) -> None:
        logits = random(20, 50, scale=3)
        got = sampler.keep_min_p(logits.softmax(dim=-1), torch.full((20,), 0.07))
        right = MinPLogitsWarper(0.07)(torch.empty(0), logits.clone()) > -torch.inf
        close(got.gt(0).float(), right.float(), "min_p=0.07: whether a token stays, by transformers", "request token")

    def test_the_engine_draws_nothing_below_the_bar(self, oracle: Oracle) -> None:
        for seed in range(6):
            tokens = answer(oracle, temperature=1.5, min_p=0.3, seed=seed)
            for i, token in enumerate(tokens):
                scores = hf_logits(oracle.model, [*PROMPT, *tokens[:i]])[-1:] / 1.5
                probs = scores.softmax(dim=-1)[0]
                assert MinPLogitsWarper(0.29)(torch.empty(0), scores)[0, token] > -torch.inf, (
                    f"the engine with min_p=0.3 drew token {token}, which is only "
                    f"{float(probs[token] / probs.max()):.0%} as likely as the likeliest"
                )


def stop_by_hand(text: str, stops: list[str], searched: int = 0) -> tuple[int, int] | None:
    """Character by character: the first end at which a stop string is complete, and the longest one there."""
    for end in range(searched + 1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return end - max(map(len, found)), end
    return None


TEXTS = ["", "so", "so that", "computed so far, so that a", "sososo that", "aaab", "that so"]
STOPS = [["so that"], ["that", "so that"], ["far, so", "so"], ["aab", "ab", "b"], ["zz", " th", "t"], ["so so that x"]]


class TestFindStop:
    """7.3"""

    @staticmethod
    def check(text: str, stops: list[str], searched: int = 0, why: str = "") -> None:
        right, given = stop_by_hand(text, stops, searched), list(stops)
        got = detokenizer.find_stop(text, given, searched)
        assert given == stops, f"find_stop was given {stops=}; whoever holds that list of the request finds {given} now"
        assert (got and tuple(got)) == right, (
            f"find_stop in the tokens' text {text!r}, {stops=}, {searched=}: {got}, and {right} is right{why}"
        )

    def test_where_it_stands(self) -> None:
        self.check("computed so far, so that a", ["so that"])
        self.check("computed so far", ["so that"])

    def test_of_several_the_first_end_then_the_longest(self) -> None:
        for text, stops in itertools.product(TEXTS, STOPS):
            for order in itertools.permutations(stops):
                self.check(text, list(order))

    def test_what_was_searched_before_does_not_count(self) -> None:
        why = ": one that ends within the first `searched` characters does not count"
        self.check("so that, so that", ["so that"], searched=7, why=why)
        self.check("so that", ["so that"], searched=7, why=why)

    def test_one_that_only_begins_there_does(self) -> None:
        why = ": the text came in the tokens' pieces, and the string lies across their border"
        self.check("so far, so that", ["so that"], searched=11, why=why)
        for text, stops in itertools.product(TEXTS, STOPS):
            for searched in range(len(text) + 1):
                self.check(text, stops, searched, why)

    def test_the_engine_stops_where_the_whole_text_would_be_cut(self, oracle: Oracle) -> None:
        text = cut_by_engine(oracle, [])
        for start, length in itertools.product(range(0, 12, 3), (1, 2, 5)):
            stop = text[start : start + length]
            right, got = text[: text.find(stop)], cut_by_engine(oracle, [stop])
            assert got == right, f"the engine's request with {stop=} answers {got!r}, and {right!r} is right"


def cut_by_engine(oracle: Oracle, stops: list[str], deltas: list[str] | None = None) -> str:
    """The text of an answer, streamed."""
    engine = make_engine(oracle.folder, **PLAIN)
    engine.add_request(PROMPT, SamplingParams(temperature=0, max_tokens=24, stop=stops, ignore_eos=True), stream=True)
    text = ""
    while engine.has_requests:
        for output in engine.step():
            text = output.outputs[0].text
            if deltas is not None:
                deltas.append(output.outputs[0].delta)
    assert_idle(engine)
    return text


def held_by_hand(text: str, stops: list[str]) -> int:
    """All tails, and all beginnings of all stop strings."""
    beginnings = {stop[:length] for stop in stops for length in range(1, len(stop))}
    return max((length for length in range(1, len(text) + 1) if text[-length:] in beginnings), default=0)


class TestHeldBack:
    """7.4"""

    def test_the_longest_tail_that_begins_a_stop_string(self) -> None:
        more = ["computed so", "some", "so tha", "so thas", "aa", "x", "that s"]
        for text, stops in itertools.product(TEXTS + more, STOPS):
            for order in itertools.permutations(stops):
                right, given = held_by_hand(text, stops), list(order)
                got = detokenizer.held_back(text, given)
                assert given == list(order), f"the request's stop strings were {list(order)}; now they are {given}"
                assert got == right, (
                    f"held_back of the tokens' text {text!r}, stops={list(order)}: {got} characters, and {right} is "
                    f"right: {text[len(text) - right :]!r} may begin a stop string"
                )

    def test_without_stop_strings_everything_is_shown(self) -> None:
        got = detokenizer.held_back("any text", [])
        assert got == 0, f"held_back without stop strings: {got} characters of the tokens' text, and 0 is right"

    def test_the_engine_never_shows_what_it_takes_back(self, oracle: Oracle) -> None:
        text = cut_by_engine(oracle, [])
        for stop in (text[4:9], text[6:8], text[3:7] + "?"):
            deltas: list[str] = []
            final = cut_by_engine(oracle, [stop], deltas)
            assert "".join(deltas) == final == text.split(stop)[0], (
                f"the engine's request with {stop=} showed {''.join(deltas)!r} in its stream, and {final!r} is its text"
            )
