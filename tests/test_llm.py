"""LLM: the interface that vLLM has, and what happens when a caller leaves in the middle."""

import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Oracle, edit_json, make_llama
from workload import assert_idle

from minillm import LLM, RequestOutput, SamplingParams
from minillm.probe import Event, listen

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


def make_llm(oracle: Oracle, **settings: Any) -> LLM:
    return LLM(str(oracle.folder), **{"num_pages": 64, **settings})


@pytest.fixture(scope="module")
def shared(oracle: Oracle) -> LLM:
    return make_llm(oracle)


@pytest.fixture
def llm(shared: LLM) -> Iterator[LLM]:
    """One engine for the tests that leave it as they found it, which is looked at after each."""
    yield shared
    assert_idle(shared.engine)
    assert not shared.client._others


def ids(output: RequestOutput) -> list[int]:
    return output.outputs[0].token_ids


# --- prompts and parameters


def test_one_prompt_as_text_ids_or_dict(llm: LLM, oracle: Oracle) -> None:
    tokens = llm.get_tokenizer().encode("Hello")
    expected = oracle.greedy(tokens, 8)
    for prompt in ("Hello", tokens, tuple(tokens), {"prompt": "Hello"}, {"prompt_token_ids": tokens}):
        (output,) = llm.generate(prompt, GREEDY, use_tqdm=False)
        assert ids(output) == expected, prompt
        assert output.prompt_token_ids == tokens


def test_token_ids_may_be_numpys_or_torchs(llm: LLM, oracle: Oracle) -> None:
    wanted = oracle.greedy([5, 6, 7], 8)
    array = np.array([5, 6, 7])
    for prompt in (array, list(array), tuple(array), [array], torch.tensor([5, 6, 7]), {"prompt_token_ids": array}):
        (output,) = llm.generate(prompt, GREEDY, use_tqdm=False)
        assert ids(output) == wanted and all(type(id) is int for id in output.prompt_token_ids), prompt
    assert [ids(one) for one in llm.generate(np.array([[5, 6, 7], [8, 9, 10]]), GREEDY, use_tqdm=False)] == [
        wanted, oracle.greedy([8, 9, 10], 8),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"has 1\.5 \(float\) among its token ids; they must be whole numbers"):
        llm.generate([[1, 1.5]], GREEDY, use_tqdm=False)


def test_a_text_with_half_a_character_is_refused(llm: LLM) -> None:
    with pytest.raises(ValueError, match=r"'\\ud83e' at character 2, half of a surrogate pair"):
        llm.generate("ab\ud83e", GREEDY, use_tqdm=False)


def test_the_tokenizers_own_end_ends_answers(oracle: Oracle, tmp_path: Path) -> None:
    """Where the model's files name another one, or none; engine.choices says whose end it is."""
    for eos in (7, None):
        folder = tmp_path / str(eos)
        shutil.copytree(oracle.folder, folder)
        for name in ("config.json", "generation_config.json"):
            if (folder / name).exists():
                edit_json(folder / name, eos_token_id=eos)
        llm = LLM(str(folder), num_pages=20)
        own = llm.get_tokenizer().eos_token_id
        (output,) = llm.generate(
            "Hi", SamplingParams(temperature=0, max_tokens=8, logit_bias={own: 100.0}), use_tqdm=False
        )
        assert ids(output) == [own] and output.outputs[0].finish_reason == "stop"
        assert f"{own} (the tokenizer)" in llm.engine.choices["end of an answer"]


@pytest.mark.parametrize("word", ["page", "model", "example"])
def test_a_bad_word_is_bad_after_a_space_too(word: str) -> None:
    """However many tokens it is there."""
    llm = LLM("nano-llama", num_pages=20)
    after_space = llm.get_tokenizer().encode(" " + word, add_special_tokens=False)
    params = SamplingParams(temperature=0, max_tokens=6, bad_words=[word], logit_bias={after_space[0]: 50.0})
    assert word not in llm.generate("The", params, use_tqdm=False)[0].outputs[0].text


def test_several_threads_share_one(oracle: Oracle) -> None:
    """Each gets its own answers, whole, whoever of them makes the steps."""
    llm, prompts = make_llm(oracle), [[i + 3, i + 4, i + 5] for i in range(8)]
    got: dict[int, Any] = {}

    def work(i: int) -> None:
        try:
            if i % 2:
                got[i] = ids(llm.generate([prompts[i]], GREEDY, use_tqdm=False)[0])
            else:
                outputs = list(llm.stream(prompts[i], GREEDY))
                got[i] = (
                    ids(outputs[-1])
                    if "".join(o.outputs[0].delta for o in outputs) == outputs[-1].outputs[0].text
                    else outputs
                )
        except BaseException as error:
            got[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == {i: oracle.greedy(prompt, 8) for i, prompt in enumerate(prompts)}
    assert_idle(llm.engine)
    assert not llm.client._others


@pytest.mark.parametrize(
    ("name", "value"), [("max_tokens", 0), ("n", 0), ("top_p", 0.0), ("logprobs", -5), ("stop", [3]), ("seed", "x")]
)
def test_parameters_that_are_set_later_are_checked_too(llm: LLM, name: str, value: Any) -> None:
    params = SamplingParams(max_tokens=4)
    setattr(params, name, value)
    with pytest.raises(ValueError, match=name):
        llm.generate("a", params, use_tqdm=False)


def test_a_stop_string_that_is_set_later_is_one(llm: LLM) -> None:
    (free,) = llm.generate("a", GREEDY, use_tqdm=False)
    stop = free.outputs[0].text[2:4]
    later = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    later.stop = stop
    told = [
        llm.generate("a", params, use_tqdm=False)[0].outputs[0]
        for params in (later, SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, stop=stop))
    ]
    assert told[0].text == told[1].text and told[0].stop_reason == told[1].stop_reason == stop


def test_get_tokenizer_has_what_scripts_ask_of_it(llm: LLM) -> None:
    tokenizer, chat = llm.get_tokenizer(), [{"role": "user", "content": "Hi"}]
    assert tokenizer("x").input_ids == tokenizer.encode("x")
    assert len(tokenizer) == len(tokenizer.get_vocab()) and tokenizer.decode(5) == tokenizer.batch_decode([[5]])[0]
    assert tokenizer.convert_tokens_to_ids(tokenizer.eos_token) == tokenizer.eos_token_id
    assert "Hi" in tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, mood="calm")


def test_a_list_may_mix_all_kinds_and_keeps_its_order(llm: LLM, oracle: Oracle) -> None:
    prompts: list[Any] = ["abc", [5, 6, 7], {"prompt": "xy"}, (9,), {"prompt": "shown", "prompt_token_ids": [8, 8]}]
    outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    encode = llm.get_tokenizer().encode
    wanted = [encode("abc"), [5, 6, 7], encode("xy"), [9], [8, 8]]
    assert [output.prompt_token_ids for output in outputs] == wanted
    assert [output.prompt for output in outputs] == ["abc", None, "xy", None, "shown"]
    assert [ids(output) for output in outputs] == [oracle.greedy(prompt, 8) for prompt in wanted]


def test_outputs_come_in_the_order_of_the_prompts_not_of_their_ends(llm: LLM) -> None:
    params = [SamplingParams(temperature=0, max_tokens=count, ignore_eos=True) for count in (9, 1, 5)]
    outputs = llm.generate(["a", "b", "c"], params, use_tqdm=False)
    assert [output.prompt for output in outputs] == ["a", "b", "c"]
    assert [len(ids(output)) for output in outputs] == [9, 1, 5]


def test_outputs_have_vllms_shape(llm: LLM) -> None:
    (output,) = llm.generate("Hi", GREEDY, use_tqdm=False)
    assert output.finished and output.prompt == "Hi" and len(output.outputs) == 1
    completion = output.outputs[0]
    assert completion.index == 0 and completion.finish_reason == "length" and completion.stop_reason is None
    assert completion.logprobs is None
    assert completion.text == llm.client.tokenizer.decode(completion.token_ids)


def test_defaults_are_vllms(llm: LLM) -> None:
    """No sampling parameters: temperature 1, at most 16 tokens."""
    (output,) = llm.generate("Hi", use_tqdm=False)
    assert len(ids(output)) == 16 or output.outputs[0].finish_reason == "stop"


def test_defaults_of_the_checkpoint_count_where_no_sampling_params_are_given(tmp_path: Path) -> None:
    """As in vLLM; whoever gives any gets those alone."""
    make_llama(tmp_path)
    edit_json(tmp_path / "generation_config.json", temperature=0.6, top_k=1, top_p=0.95, min_p=None, do_sample=True)
    llm = LLM(str(tmp_path), num_pages=64)
    assert llm.get_default_sampling_params() == SamplingParams(temperature=0.6, top_k=1, top_p=0.95)
    params = SamplingParams(temperature=0)
    for ask in (llm.generate, llm.stream):
        outputs = list(ask([[5, 6], [7]])), list(ask([[5, 6], [7]], params))
        assert [ids(output) for output in outputs[0]] == [ids(output) for output in outputs[1]]
    edit_json(tmp_path / "generation_config.json", temperature="hot")
    with pytest.raises(ValueError, match=r"generation_config.json: temperature is hot"):
        llm.generate([5], use_tqdm=False)
    (tmp_path / "generation_config.json").unlink()
    assert llm.get_default_sampling_params() == SamplingParams()


def test_lower_priorities_are_admitted_first(oracle: Oracle) -> None:
    llm = make_llm(oracle, scheduling_policy="priority", max_num_seqs=1)
    for priority, order in (([2, 0, 1], "bca"), (5, "abc"), (None, "abc")):
        outputs = llm.stream(["a", "b", "c"], GREEDY, priority=priority)
        assert "".join(str(output.prompt) for output in outputs if output.finished) == order
    outputs = llm.generate(["a", "b"], GREEDY, use_tqdm=False, priority=[1, 0])
    assert [output.prompt for output in outputs] == ["a", "b"]


@pytest.mark.parametrize(
    ("priority", "says"),
    [([1], "2 prompts, but 1 priorities"), ("high", "priority is 'high'; it must be a whole number"),
     ([1, 2.5], r"priority is \[1, 2.5\]"), (True, "priority is True")],
)  # fmt: skip
def test_a_wrong_priority(oracle: Oracle, priority: Any, says: str) -> None:
    llm = make_llm(oracle, scheduling_policy="priority")
    with pytest.raises(ValueError, match=says):
        llm.generate(["a", "b"], GREEDY, use_tqdm=False, priority=priority)
    assert_idle(llm.engine)


def test_a_priority_that_nobody_would_look_at_is_refused(llm: LLM) -> None:
    with pytest.raises(ValueError, match=r"scheduling_policy is 'fcfs'; .* scheduling_policy='priority'"):
        llm.generate("a", GREEDY, use_tqdm=False, priority=1)
    assert len(llm.generate("a", GREEDY, use_tqdm=False, priority=[0])) == 1


def test_sampling_params_may_come_in_any_collection(llm: LLM) -> None:
    params = (SamplingParams(temperature=0, max_tokens=count, ignore_eos=True) for count in (3, 1))
    assert [len(ids(output)) for output in llm.generate(["a", "b"], params, use_tqdm=False)] == [3, 1]


@pytest.mark.parametrize("params", [5, {"temperature": 0}, [{"temperature": 0}], "greedy"])
def test_sampling_params_of_the_wrong_kind(llm: LLM, params: Any) -> None:
    with pytest.raises(ValueError, match=r"sampling_params .*; it must be SamplingParams, one for all or one for each"):
        llm.generate(["a"], params, use_tqdm=False)


@pytest.mark.parametrize("name", ["flush_cache", "reset_prefix_cache"])
def test_cached_prefixes_can_be_forgotten(oracle: Oracle, name: str) -> None:
    llm = make_llm(oracle)
    for cached in (0, 0):
        assert llm.generate([[5] * 40], GREEDY, use_tqdm=False)[0].num_cached_tokens == cached
        assert getattr(llm, name)()
    stream = llm.stream([[5] * 40], GREEDY)
    next(stream)
    with pytest.raises(RuntimeError):
        getattr(llm, name)()


def test_no_prompts_no_outputs(llm: LLM) -> None:
    assert llm.generate([], GREEDY, use_tqdm=False) == []
    assert llm.generate([], [], use_tqdm=False) == []
    assert list(llm.stream([], GREEDY)) == []
    assert llm.chat([], GREEDY, use_tqdm=False) == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_sampling_params_is_refused(llm: LLM, count: int) -> None:
    with pytest.raises(ValueError, match=f"2 prompts, but {count} sampling_params"):
        llm.generate(["a", "b"], [GREEDY] * count, use_tqdm=False)


def test_if_one_prompt_is_refused_none_is_queued(llm: LLM) -> None:
    with pytest.raises(ValueError, match="token id 999 is not in the vocabulary"):
        llm.generate(["fine", [999], "fine too"], GREEDY, use_tqdm=False)
    assert not llm.engine.has_requests


def test_a_prompt_may_be_as_long_as_leaves_one_token(llm: LLM) -> None:
    (output,) = llm.generate([[3] * 255], SamplingParams(temperature=0, max_tokens=None), use_tqdm=False)
    assert len(ids(output)) == 1


def test_max_tokens_none_goes_on_to_the_context_limit(llm: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
    (output,) = llm.generate([[3] * 250], params, use_tqdm=False)
    assert len(ids(output)) == 6 and output.outputs[0].finish_reason == "length"


def test_stop_tokens_end_the_answer(llm: LLM, oracle: Oracle) -> None:
    free = oracle.greedy([5, 6, 7], 20)
    stop = free[4]
    params = SamplingParams(temperature=0, max_tokens=20, stop_token_ids=[stop], ignore_eos=True)
    (output,) = llm.generate([[5, 6, 7]], params, use_tqdm=False)
    assert ids(output) == free[: free.index(stop) + 1]
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", stop)


def test_a_stop_token_is_among_the_tokens_but_not_in_the_text(llm: LLM, oracle: Oracle) -> None:
    free = oracle.greedy([5, 6, 7], 20)
    params = SamplingParams(temperature=0, max_tokens=20, stop_token_ids=[free[4]], ignore_eos=True)
    outputs = list(llm.stream([[5, 6, 7]], params))
    shown = free[: free.index(free[4])]
    assert (
        outputs[-1].outputs[0].text
        == "".join(o.outputs[0].delta for o in outputs)
        == llm.client.tokenizer.decode(shown)
    )


def test_the_progress_bar_goes_to_standard_error_only(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["a", "b"], GREEDY, use_tqdm=True)
    assert capsys.readouterr().out == ""


# --- chat


def test_chat_uses_the_checkpoints_template(llm: LLM, oracle: Oracle) -> None:
    messages = [{"role": "user", "content": "hé"}]
    (output,) = llm.chat(messages, GREEDY, use_tqdm=False)
    assert output.prompt == "user: hé</s>assistant: "
    encode = llm.get_tokenizer().encode
    expected = [*encode("user: hé"), 1, *encode("assistant: ")]  # </s> is one token, not four letters
    assert output.prompt_token_ids == expected
    assert ids(output) == oracle.greedy(expected, 8)


def test_chat_takes_several_conversations(llm: LLM) -> None:
    one, two = (
        [{"role": "user", "content": "a"}],
        [{"role": "system", "content": "b"}, {"role": "user", "content": "c"}],
    )
    outputs = llm.chat([one, two], GREEDY, use_tqdm=False)
    assert [output.prompt for output in outputs] == ["user: a</s>assistant: ", "system: b</s>user: c</s>assistant: "]
    streamed = [output for output in llm.stream_chat([one, two], GREEDY) if output.finished]
    assert sorted(map(ids, streamed)) == sorted(map(ids, outputs))


# --- streams


def test_the_deltas_of_a_stream_add_up_to_the_text(llm: LLM) -> None:
    params = SamplingParams(temperature=1, seed=1, max_tokens=40, ignore_eos=True)
    (whole,) = llm.generate("Hello", params, use_tqdm=False)
    text, lengths = "", []
    for output in llm.stream("Hello", params):
        text += output.outputs[0].delta
        assert output.outputs[0].text == text
        lengths.append(len(ids(output)))
        last = output
    assert lengths == list(range(1, 41))
    assert last.finished and text == whole.outputs[0].text and ids(last) == ids(whole)


def test_outputs_of_a_stream_are_snapshots(llm: LLM) -> None:
    outputs = list(llm.stream([[5, 6]], GREEDY))
    assert [len(ids(output)) for output in outputs] == list(range(1, 9))
    assert [output.finished for output in outputs] == [False] * 7 + [True]
    assert [output.outputs[0].finish_reason for output in outputs] == [None] * 7 + ["length"]


def test_leaving_a_stream_early_aborts_it_and_frees_its_pages(llm: LLM) -> None:
    for output in llm.stream(["Hello", "you"], GREEDY):
        if len(ids(output)) == 3:
            break
    assert_idle(llm.engine)


def test_an_error_in_the_callers_loop_frees_the_pages_too(llm: LLM) -> None:
    with pytest.raises(ZeroDivisionError):
        for _ in llm.stream("Hello", GREEDY):
            1 / 0  # noqa: B018
    assert_idle(llm.engine)


def test_a_stream_that_is_closed_before_it_began_leaves_nothing(llm: LLM) -> None:
    stream = llm.stream("Hello", GREEDY)
    stream.close()  # type: ignore[attr-defined]
    assert_idle(llm.engine)


def test_a_stream_that_nobody_looks_at_leaves_nothing(llm: LLM) -> None:
    llm.stream("Hello", GREEDY)
    assert_idle(llm.engine)


def test_a_bad_prompt_is_refused_when_the_stream_is_asked_for(llm: LLM) -> None:
    with pytest.raises(ValueError, match="empty"):
        llm.stream([[]], GREEDY)


@pytest.mark.timeout(30)
def test_two_interleaved_streams_both_complete(llm: LLM, oracle: Oracle) -> None:
    a, b = llm.stream([[5, 6]], GREEDY), llm.stream([[7, 8], [9]], GREEDY)
    seen: dict[str, list[RequestOutput]] = {"a": [], "b": []}
    open_ones = {"a": a, "b": b}
    while open_ones:
        for name in list(open_ones):
            output = next(open_ones[name], None)
            if output is None:
                del open_ones[name]
            else:
                seen[name].append(output)
    assert [ids(output) for output in seen["a"] if output.finished] == [oracle.greedy([5, 6], 8)]
    finals = {tuple(output.prompt_token_ids): ids(output) for output in seen["b"] if output.finished}
    assert finals == {(7, 8): oracle.greedy([7, 8], 8), (9,): oracle.greedy([9], 8)}
    assert [len(seen["a"]), len(seen["b"])] == [8, 16]  # no output was lost on the way


@pytest.mark.timeout(30)
def test_a_stream_read_only_after_another_one_has_ended_gives_all_its_outputs(llm: LLM, oracle: Oracle) -> None:
    late, early = llm.stream([[5, 6]], GREEDY), llm.stream([[7, 8]], GREEDY)
    assert len(list(early)) == 8
    outputs = list(late)
    assert len(outputs) == 8 and ids(outputs[-1]) == oracle.greedy([5, 6], 8)


@pytest.mark.timeout(30)
def test_generate_inside_a_streams_loop(llm: LLM, oracle: Oracle) -> None:
    outer = []
    for output in llm.stream([[5, 6]], GREEDY):
        outer.append(ids(output))
        (inner,) = llm.generate([[7, 8]], GREEDY, use_tqdm=False)
        assert ids(inner) == oracle.greedy([7, 8], 8)
    assert len(outer) == 8 and outer[-1] == oracle.greedy([5, 6], 8)


def test_closing_one_of_two_streams_leaves_the_other_alone(llm: LLM, oracle: Oracle) -> None:
    a, b = llm.stream([[5, 6]], GREEDY), llm.stream([[7, 8]], GREEDY)
    next(a), next(b)
    a.close()  # type: ignore[attr-defined]
    assert ids(list(b)[-1]) == oracle.greedy([7, 8], 8)


@pytest.mark.timeout(30)
def test_a_request_aborted_behind_the_streams_back_ends_the_stream(llm: LLM) -> None:
    outputs = []
    for output in llm.stream([[5, 6], [7, 8]], GREEDY):
        outputs.append(output)
        if len(outputs) == 3:
            llm.engine.abort(output.request_id)
    aborted = outputs[2].request_id
    assert [output.outputs[0].finish_reason for output in outputs if output.finished] == ["length"]
    assert max(len(ids(output)) for output in outputs if output.request_id == aborted) == 2


@given(data=st.data())
@settings(max_examples=examples(15))
def test_any_interleaving_of_streams_gives_each_its_own_tokens(
    data: st.DataObject, shared: LLM, oracle: Oracle
) -> None:
    """Streams that begin, advance and are closed in any order: each that is read to its end is right and whole."""
    streams: dict[int, tuple[int, Any, list[RequestOutput]]] = {}
    for number in range(data.draw(st.integers(5, 40))):
        if not streams or (len(streams) < 4 and data.draw(st.integers(0, 3)) == 0):
            prompt = data.draw(st.integers(5, 15))
            streams[number] = (prompt, shared.stream([[prompt, 6]], GREEDY), [])
            continue
        key = data.draw(st.sampled_from(sorted(streams)))
        prompt, stream, seen = streams[key]
        if data.draw(st.integers(0, 7)) == 0:
            stream.close()
            del streams[key]
        elif (output := next(stream, None)) is not None:
            seen.append(output)
    for prompt, stream, seen in streams.values():
        seen.extend(stream)
        assert [ids(output) for output in seen] == [oracle.greedy([prompt, 6], n) for n in range(1, 9)]
    assert_idle(shared.engine)


# --- interrupts

EVERYWHERE = [
    "request.add", "scheduler.begin", "scheduler.admit", "kv.allocate", "scheduler.plan", "batch.build", "model.embed",
    "layer.mlp", "attention.attend", "model.logits", "sampler.logits", "sampler.token", "scheduler.commit",
    "request.token", "kv.free", "request.text", "request.finish", "engine.step",
]  # fmt: skip


class InterruptAt:
    """Listens to one probe and raises Ctrl-C's exception when it comes by for the nth time."""

    def __init__(self, name: str, nth: int) -> None:
        self.listener, self.left = listen(name, self.hear), nth

    def hear(self, _event: Event) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", EVERYWHERE)
@pytest.mark.parametrize("nth", [1, 2])
def test_ctrl_c_at_any_point_leaves_an_idle_engine_that_works(oracle: Oracle, name: str, nth: int) -> None:
    llm = make_llm(oracle)
    trap = InterruptAt(name, nth)
    with trap.listener, pytest.raises(KeyboardInterrupt):
        llm.generate([[5, 6], [7, 8, 9]], GREEDY, use_tqdm=False)
    assert_idle(llm.engine)
    outputs = llm.generate([[5, 6], [7, 8, 9]], GREEDY, use_tqdm=False)
    assert [ids(output) for output in outputs] == [oracle.greedy([5, 6], 8), oracle.greedy([7, 8, 9], 8)]
    assert_idle(llm.engine)


def test_ctrl_c_in_the_middle_of_a_preemption(oracle: Oracle) -> None:
    llm = make_llm(oracle, page_size=4, num_pages=5)
    params = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True)
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12]]
    for name in ("scheduler.preempt", "kv.free"):
        trap = InterruptAt(name, 1)
        with trap.listener, pytest.raises(KeyboardInterrupt):
            llm.generate(prompts, params, use_tqdm=False)
        assert_idle(llm.engine)
    outputs = llm.generate(prompts, params, use_tqdm=False)
    assert [ids(output) for output in outputs] == [oracle.greedy(prompt, 9) for prompt in prompts]


@pytest.mark.parametrize("name", ["scheduler.admit", "scheduler.wait", "radix.insert", "radix.evict", "radix.match"])
@pytest.mark.parametrize("ahead", [False, True])
def test_ctrl_c_in_the_books_of_the_prefix_cache(oracle: Oracle, name: str, ahead: bool) -> None:
    """Half-written books are not undone but begun anew: no page is lost, and nothing half-filled is found again."""
    llm = make_llm(oracle, page_size=4, num_pages=12, async_scheduling=ahead)
    prompt, other = list(range(10, 50)), [7] * 36
    llm.generate([prompt], GREEDY, use_tqdm=False)
    second = {
        "radix.evict": [other],
        "radix.insert": [[8] * 8],
        "scheduler.wait": [[*prompt[:20], *other[:20]], prompt],
    }
    trap = InterruptAt(name, 1)
    with trap.listener, pytest.raises(KeyboardInterrupt):
        llm.generate(second.get(name, [prompt]), GREEDY, use_tqdm=False)
    assert_idle(llm.engine)
    assert ids(llm.generate([prompt], GREEDY, use_tqdm=False)[0]) == oracle.greedy(prompt, 8)
    assert_idle(llm.engine)


@pytest.mark.parametrize("name", ["request.token", "kv.free", "request.text", "request.finish", "request.stop"])
def test_an_answer_that_ended_in_a_step_that_was_cut_short_is_handed_out(oracle: Oracle, name: str) -> None:
    engine = make_llm(oracle).engine
    text = engine.tokenizer.decode(oracle.greedy([9, 8], 8))
    stops = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, stop=[text[3]])
    first, second = engine.add_request([5, 6], GREEDY), engine.add_request([9, 8], stops)
    finals = {}
    trap = InterruptAt(name, 2 if name in ("request.token", "request.text") else 1)
    with trap.listener:
        while engine.has_requests:
            try:
                finals |= {output.request_id: output for output in engine.step() if output.finished}
            except KeyboardInterrupt:
                continue
    assert ids(finals[first.id]) == oracle.greedy([5, 6], 8)
    assert finals[second.id].outputs[0].text == text[: text.index(text[3])]
    assert_idle(engine)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", EVERYWHERE[1:])
def test_ctrl_c_in_one_stream_does_not_change_another(oracle: Oracle, name: str) -> None:
    """The step that was cut short computed for both; what the other one gets afterwards must be as if nothing had
    been."""
    expected = oracle.greedy([7, 8, 9], 8)
    for nth in range(1, 8):
        llm = make_llm(oracle, page_size=2)
        other = llm.stream([[7, 8, 9]], GREEDY)
        seen = [next(other)] if nth % 2 else []
        trap = InterruptAt(name, nth)
        with trap.listener:
            try:
                list(llm.stream([[5, 6]], GREEDY))
            except KeyboardInterrupt:
                pass
            else:
                assert trap.left > 0  # the probe comes by less often than that
        seen.extend(other)
        assert ids(seen[-1]) == expected and seen[-1].finished
        assert seen[-1].outputs[0].text == llm.client.tokenizer.decode(expected)
        assert_idle(llm.engine)


@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent another way there")
def test_ctrl_c_ends_a_real_program_at_once(oracle: Oracle) -> None:
    """A program that generates gets SIGINT: KeyboardInterrupt comes out of generate, and no page is lost."""
    program = textwrap.dedent(f"""
        import sys
        from minillm import LLM, SamplingParams
        llm = LLM({str(oracle.folder)!r}, num_pages=64, reuse_kv=False)  # or an answer that ended leaves pages behind
        params = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
        print("ready", flush=True)
        try:
            while True:
                llm.generate([[5, 6]] * 4, params, use_tqdm=False)
        except KeyboardInterrupt:
            llm.engine.scheduler.check()
            print("interrupted", llm.engine.pool.num_used, llm.engine.has_requests, flush=True)
            print(len(llm.generate([[5, 6]], params, use_tqdm=False)[0].outputs[0].token_ids), flush=True)
            sys.exit(7)
    """)
    running = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None and running.stdout.readline() == "ready\n"
        time.sleep(0.3)  # into the middle of it
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    finally:
        running.kill()
    assert (running.returncode, out) == (7, "interrupted 0 False\n200\n"), err


@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent another way there")
def test_ctrl_c_nobody_catches_ends_a_program_as_python_does(oracle: Oracle) -> None:
    program = f"""from minillm import LLM, SamplingParams
llm = LLM({str(oracle.folder)!r}, num_pages=64)
print("ready", flush=True)
while True:
    llm.generate("Hello", SamplingParams(max_tokens=200, ignore_eos=True))
"""
    running = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None and running.stdout.readline() == "ready\n"
        time.sleep(0.3)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode in (-signal.SIGINT, 130) and err.rstrip().endswith("KeyboardInterrupt")


# --- settings under other engines' names


def test_vllms_and_sglangs_names_mean_ours(oracle: Oracle, tmp_path: Path) -> None:
    config = LLM(
        str(oracle.folder), block_size=8, num_gpu_blocks_override=20, context_length=100, max_running_requests=3,
        chunked_prefill_size=50, mem_fraction_static=0.5, random_seed=9,
    ).engine.config  # fmt: skip
    assert (config.page_size, config.num_pages, config.max_model_len, config.max_num_seqs) == (8, 20, 100, 3)
    assert (config.max_num_batched_tokens, config.gpu_memory_utilization, config.seed) == (50, 0.5, 9)


def test_sglangs_model_path_names_the_model(oracle: Oracle) -> None:
    llm = LLM(model_path=str(oracle.folder), max_total_tokens=512)
    assert llm.engine.setup.folder == oracle.folder and llm.engine.pool.num_pages == 32


def test_the_model_given_under_both_names_is_refused(oracle: Oracle) -> None:
    with pytest.raises(ValueError, match=r"'model' is given twice, as .* and \(by its alias 'model_path'\)"):
        LLM(str(oracle.folder), model_path="/elsewhere")


def test_an_unknown_setting_suggests_a_near_one(oracle: Oracle) -> None:
    with pytest.raises(ValueError, match=r"unknown engine setting 'max_num_seq'; did you mean 'max_num_seqs'\?"):
        make_llm(oracle, max_num_seq=4)
    with pytest.raises(ValueError, match=r"unknown engine setting 'blok_size'; did you mean 'block_size'\?"):
        make_llm(oracle, blok_size=4)
    with pytest.raises(ValueError, match=r"unknown engine setting 'zzz'; known settings: .*page_size"):
        make_llm(oracle, zzz=4)
