"""Stop strings through the engine: where the answer ends, what is shown meanwhile, and that nothing is left behind."""

from typing import Any

import pytest
from tiny import Oracle
from workload import Job, assert_idle, cut, make_engine, run_jobs

from minillm import LLM
from minillm.request import CompletionOutput, RequestOutput, SamplingParams
from minillm.text.tokenizer import Tokenizer

QUESTION = [{"role": "user", "content": "What is a radix cache?"}]
FULL = "A radix cache is a prefix cache built as a tree"


@pytest.fixture(scope="module")
def nano() -> LLM:
    return LLM("nano-llama", num_pages=64, debug_checks=True)


def ask(llm: LLM, **params: Any) -> CompletionOutput:
    (output,) = llm.chat(QUESTION, SamplingParams(**{"temperature": 0, "max_tokens": 40, **params}), use_tqdm=False)
    assert_idle(llm.engine)
    return output.outputs[0]


@pytest.mark.parametrize(
    ("stop", "keep", "text", "found"),
    [
        (" a prefix", False, "A radix cache is", " a prefix"),
        (" a prefix", True, "A radix cache is a prefix", " a prefix"),
        ("x cache is a pre", False, "A radi", "x cache is a pre"),  # begins and ends in the middle of tokens
        (["tree", "cache"], False, "A radix ", "cache"),
        (["zzz", "cache is a", "cache is"], False, "A radix ", "cache is"),  # complete first
        ("A", False, "", "A"),
    ],
)
def test_the_text_is_cut_at_the_stop_string(nano: LLM, stop: Any, keep: bool, text: str, found: str) -> None:
    assert ask(nano).text.startswith(FULL)
    answer = ask(nano, stop=stop, include_stop_str_in_output=keep)
    assert (answer.text, answer.finish_reason, answer.stop_reason) == (text, "stop", found)
    shown = nano.client.tokenizer.decode(answer.token_ids)
    assert found in shown and found not in nano.client.tokenizer.decode(answer.token_ids[:-1])


def test_a_stop_string_that_does_not_come_changes_nothing(nano: LLM) -> None:
    plain, answer = ask(nano), ask(nano, stop=["no such thing", "A radix cache was"])
    assert (answer.text, answer.token_ids, answer.finish_reason) == (plain.text, plain.token_ids, plain.finish_reason)


def test_what_is_held_back_comes_out_at_the_end(nano: LLM) -> None:
    """Cut off by max_tokens just where a stop string could have begun."""
    free = ask(nano, max_tokens=8)
    answer = ask(nano, max_tokens=8, stop=free.text[-3:] + "???")
    assert (answer.text, answer.finish_reason) == (free.text, "length")


def test_a_stop_string_wins_over_max_tokens_in_the_same_step(nano: LLM) -> None:
    tokens = ask(nano, stop="prefix").token_ids
    answer = ask(nano, stop="prefix", max_tokens=len(tokens))
    assert (answer.finish_reason, answer.stop_reason, answer.token_ids) == ("stop", "prefix", tokens)


@pytest.mark.parametrize("keep", [False, True])
def test_streaming_shows_what_is_certain_and_adds_up(nano: LLM, keep: bool) -> None:
    stop = ["cache built", "is a tree"]
    params = SamplingParams(temperature=0, max_tokens=40, stop=stop, include_stop_str_in_output=keep)
    answers = [output.outputs[0] for output in nano.stream_chat(QUESTION, params)]
    final = "A radix cache is a prefix cache built" if keep else "A radix cache is a prefix "
    shown = ""
    for answer in answers:
        shown += answer.delta
        assert answer.text == shown and final.startswith(shown)
    assert shown == final and answers[-1].finish_reason == "stop"
    behind = [len(nano.client.tokenizer.decode(a.token_ids)) - len(a.text) for a in answers[:-1]]
    assert max(behind) <= (0 if keep else max(map(len, stop)) - 1) and len(answers) == len(answers[-1].token_ids)
    assert_idle(nano.engine)


def test_the_pages_are_free_in_the_same_step(oracle: Oracle) -> None:
    tokenizer = Tokenizer(oracle.folder)
    free = oracle.greedy([5, 6, 7], 20)
    at = next(i for i, token in enumerate(free) if i > 2 and tokenizer.decode([token]).isprintable())
    stop = tokenizer.decode([free[at]])
    count, text, _ = cut(tokenizer, free, [stop])
    engine = make_engine(oracle.folder, debug_checks=True)
    engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=20, stop=stop, ignore_eos=True))
    outputs: list[RequestOutput] = []
    for _ in range(count):
        assert not outputs
        outputs = engine.step()
    (output,) = outputs
    assert (output.outputs[0].token_ids, output.outputs[0].text) == (free[:count], text)
    assert_idle(engine)


def test_a_stop_token_and_its_text(oracle: Oracle) -> None:
    """Left out of the text, unless the stop is to be kept; the model's own end token is treated alike."""
    tokenizer = Tokenizer(oracle.folder)
    free = oracle.greedy([5, 6, 7], 20)
    ids = free[: free.index(free[4]) + 1]
    for keep, shown in ((False, ids[:-1]), (True, ids)):
        engine = make_engine(oracle.folder)
        engine.add_request(
            [5, 6, 7],
            SamplingParams(
                temperature=0, max_tokens=20, stop_token_ids=[free[4]], include_stop_str_in_output=keep, ignore_eos=True
            ),
        )
        (output,) = [output for _ in range(len(ids)) for output in engine.step()]
        assert (output.outputs[0].token_ids, output.outputs[0].text) == (ids, tokenizer.decode(shown))


def test_only_those_with_stop_strings_are_read_at_every_step(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    from minillm.text.answer import Answer

    read = Answer.read
    monkeypatch.setattr(Answer, "read", lambda answer: (reads.append(answer.request.id), read(answer)))
    run_jobs(make_engine(oracle.folder), [Job((5, 6), 9), Job((7, 8), 9, stop_strings=("????",)), Job((5, 8), 9)])
    assert sorted(reads) == [0, *[1] * 9, 2]
