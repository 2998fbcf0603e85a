"""Log probabilities: of the raw logits, with ranks as vLLM counts them; of answers and of prompts."""

from typing import Any

import pytest
import torch
from tiny import Oracle, hf_logits
from workload import Job, assert_idle, make_engine, run_jobs

from minillm import LLM
from minillm.probe import listen
from minillm.request import RequestOutput, SamplingParams
from minillm.sampling.logprobs import top_logprobs
from minillm.text.tokenizer import Tokenizer

PROMPT = list(range(20, 40))


def generate(oracle: Oracle, prompts: list[list[int]], settings: dict[str, Any], **params: Any) -> list[RequestOutput]:
    llm = LLM(str(oracle.folder), **{"num_pages": 64, **settings})
    chosen = SamplingParams(**{"temperature": 0, "max_tokens": 5, "ignore_eos": True, **params})
    outputs = llm.generate(prompts, chosen, use_tqdm=False)
    assert_idle(llm.engine)
    return outputs


def test_worked_values() -> None:
    """Probabilities 1/2, 1/4, 1/8, 1/8; the chosen token first, then the likeliest. Of two equals, both count."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log().repeat(3, 1)
    top = top_logprobs(logits, torch.tensor([1, 0, 3]), 2)
    read = top.read([2, 1, 0])
    ln = torch.tensor(0.5).log().item()
    assert [[token for token, _, _ in row] for row in read] == [[1, 0, 1], [0, 0], [3]]
    assert [[rank for _, _, rank in row] for row in read] == [[2, 1, 2], [1, 1], [4]]
    assert read[0][0][1] == pytest.approx(2 * ln) and read[0][1][1] == pytest.approx(ln)
    assert read[2][0][1] == pytest.approx(3 * ln)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_an_answers_log_probabilities_are_transformers(oracle: Oracle, count: int) -> None:
    (output,) = generate(oracle, [PROMPT], {}, logprobs=count, temperature=1.5, seed=3, top_k=40, logit_bias={7: 2.0})
    answer, tokenizer = output.outputs[0], Tokenizer(oracle.folder)
    expected = hf_logits(oracle.model, PROMPT + answer.token_ids)[len(PROMPT) - 1 : -1].log_softmax(dim=-1)
    assert answer.logprobs is not None and len(answer.logprobs) == 5
    total = 0.0
    for token, entry, row in zip(answer.token_ids, answer.logprobs, expected):
        assert next(iter(entry)) == token, "the chosen token comes first"
        likeliest = row.topk(count).indices.tolist()
        assert set(entry) == {token, *likeliest}
        for id, known in entry.items():
            assert known.logprob == pytest.approx(float(row[id]), abs=1e-3)
            alone = tokenizer.token(id)
            if "\ufffd" not in alone:  # half a character is told when it is whole, or is sure to be none
                assert known.decoded_token.lstrip("\ufffd") == alone
        assert entry[token].rank == int((row >= row[token]).sum())
        assert [entry[id].rank for id in likeliest] == list(range(1, count + 1))
        total += entry[token].logprob
    assert answer.cumulative_logprob == pytest.approx(total)


def test_the_texts_of_an_answers_tokens_are_the_answer() -> None:
    """Characters that tokens cut into bytes, too: a token tells what it adds."""
    llm = LLM("nano-llama", num_pages=20)
    text = "é 🦙 a page, 你好!"
    prompt = llm.get_tokenizer().encode(text)
    (output,) = llm.generate(
        [prompt],
        SamplingParams(
            max_tokens=20,
            temperature=2,
            seed=4,
            logprobs=2,
            prompt_logprobs=1,
            ignore_eos=True,
            skip_special_tokens=False,
        ),
        use_tqdm=False,
    )
    answer = output.outputs[0]
    assert "".join(entry[id].decoded_token for entry, id in zip(answer.logprobs, answer.token_ids)) == answer.text
    told = [entry[id].decoded_token for entry, id in zip(output.prompt_logprobs[1:], prompt[1:])]
    assert "".join(told) == text


def test_the_whole_vocabulary(oracle: Oracle) -> None:
    (output,) = generate(oracle, [PROMPT], {}, logprobs=-1, prompt_logprobs=-1, max_tokens=2)
    assert output.outputs[0].logprobs is not None and output.prompt_logprobs is not None
    for entry in [*output.outputs[0].logprobs, *output.prompt_logprobs[1:]]:
        assert entry is not None and len(entry) == 258
        assert sum(torch.tensor(known.logprob).exp() for known in entry.values()) == pytest.approx(1, abs=1e-4)


SETTINGS = [
    {}, {"max_num_batched_tokens": 3}, {"max_num_batched_tokens": 7, "max_num_seqs": 2}, {"reuse_kv": False},
    {"page_size": 4, "num_pages": 8, "max_num_batched_tokens": 6},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("count", [0, 3])
def test_a_prompts_log_probabilities_are_transformers(oracle: Oracle, settings: dict[str, Any], count: int) -> None:
    prompts = [PROMPT, [3], [8, 9, 8, 9, 8]]
    for prompt, output in zip(prompts, generate(oracle, prompts, settings, prompt_logprobs=count)):
        expected = hf_logits(oracle.model, prompt).log_softmax(dim=-1)
        found = output.prompt_logprobs
        assert found is not None and len(found) == len(prompt) and found[0] is None
        for position, entry in enumerate(found[1:], 1):
            row, token = expected[position - 1], prompt[position]
            assert entry is not None and set(entry) == {token, *row.topk(count).indices.tolist()}
            assert entry[token].logprob == pytest.approx(float(row[token]), abs=1e-3)
            assert entry[token].rank == int((row >= row[token]).sum())
        assert output.outputs[0].token_ids == oracle.greedy(prompt, 5)


def test_a_prompt_in_pieces(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = generate(oracle, [PROMPT], {}, prompt_logprobs=2)
    monkeypatch.setattr("minillm.sampling.logprobs.MOST_LOGITS", 3 * 258)
    (pieces,) = generate(oracle, [PROMPT], {}, prompt_logprobs=2)
    assert whole.prompt_logprobs is not None and pieces.prompt_logprobs is not None
    for one, other in zip(whole.prompt_logprobs[1:], pieces.prompt_logprobs[1:]):
        assert one is not None and other is not None and list(one) == list(other)
        assert all(one[id].logprob == pytest.approx(other[id].logprob, abs=1e-4) for id in one)


def test_a_preemption_in_the_middle_of_a_prompt_repeats_no_entry(oracle: Oracle) -> None:
    """The long prompt is computed two tokens a step, and the older request's growth throws it out before its end."""
    engine = make_engine(oracle.folder, page_size=2, num_pages=13, max_num_batched_tokens=3, max_model_len=64)
    first = engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=12, ignore_eos=True))
    params = SamplingParams(temperature=0, max_tokens=3, prompt_logprobs=0, logprobs=0, ignore_eos=True)
    second = engine.add_request(PROMPT, params)
    done = {}
    preempted_at = None
    while engine.has_requests:
        for output in engine.step():
            done[output.request_id] = output
        if second.num_preemptions and preempted_at is None:
            preempted_at = len(second.prompt_logprobs)
    assert preempted_at is not None and preempted_at > 1
    expected = hf_logits(oracle.model, PROMPT).log_softmax(dim=-1)
    found = done[second.id].prompt_logprobs
    assert len(found) == len(PROMPT) and len(done[second.id].outputs[0].logprobs) == 3
    for position in range(1, len(PROMPT)):
        token = PROMPT[position]
        assert found[position][token].logprob == pytest.approx(float(expected[position - 1, token]), abs=1e-3)
    assert done[first.id].outputs[0].token_ids == oracle.greedy([5, 6, 7], 12)
    assert_idle(engine)


def test_those_who_ask_for_nothing_get_nothing(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder)
    run = run_jobs(engine, [Job((5, 6), 4), Job((5, 6), 4, logprobs=2)])
    assert run.finals[0].outputs[0].logprobs is None and run.finals[0].prompt_logprobs is None
    assert run.finals[0].outputs[0].cumulative_logprob is None
    assert run.finals[1].outputs[0].logprobs is not None and run.finals[1].prompt_logprobs is None


@pytest.mark.parametrize("name", ["sampler.token", "scheduler.commit", "request.token"])
def test_a_step_that_is_cut_short_loses_no_entry(oracle: Oracle, name: str) -> None:
    engine = make_engine(oracle.folder, max_num_batched_tokens=8)
    request = engine.add_request(
        PROMPT, SamplingParams(temperature=0, max_tokens=4, prompt_logprobs=0, logprobs=0, ignore_eos=True)
    )
    seen = 0

    def fail(_event: object) -> None:
        nonlocal seen
        seen += 1
        if seen in (1, 3):
            raise MemoryError

    outputs: list[RequestOutput] = []
    with listen(name, fail):
        while engine.has_requests:
            try:
                outputs += engine.step()
            except MemoryError:
                engine.scheduler.check()
    (output,) = outputs
    assert output.request_id == request.id and seen > 2
    assert output.prompt_logprobs is not None and len(output.prompt_logprobs) == len(PROMPT)
    assert [next(iter(entry)) for entry in output.prompt_logprobs[1:] if entry] == PROMPT[1:]
    assert [next(iter(entry)) for entry in output.outputs[0].logprobs or []] == oracle.greedy(PROMPT, 4)
    assert_idle(engine)
