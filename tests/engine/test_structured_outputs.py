"""Answers that keep to a grammar, whatever the model would rather say."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import Oracle
from workload import EOS, assert_idle, make_engine

from minillm import LLM, SamplingParams, StructuredOutputsParams
from minillm.hub import ASSETS
from minillm.request import CompletionOutput, RequestOutput

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["fast", "small", "new"]}, "maxItems": 3},
        "parent": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    },
    "required": ["name", "age", "tags", "parent"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def nano() -> LLM:
    return LLM("nano-llama", num_pages=400, debug_checks=True)


def answers(llm: LLM, prompts: list[str], **params: Any) -> list[RequestOutput]:
    chosen = SamplingParams(**{"temperature": 0, "max_tokens": 100, **params})
    outputs = llm.generate(prompts, chosen, use_tqdm=False)
    assert_idle(llm.engine)
    return outputs


def one(llm: LLM, **params: Any) -> CompletionOutput:
    return answers(llm, ["The"], **params)[0].outputs[0]


def check(value: Any) -> None:
    assert set(value) == {"name", "age", "tags", "parent"}
    assert isinstance(value["name"], str) and len(value["name"]) <= 12
    assert isinstance(value["age"], int) and 0 <= value["age"] <= 120
    assert set(value["tags"]) <= {"fast", "small", "new"} and len(value["tags"]) <= 3
    assert value["parent"] in (None, True, False)


def test_json_of_a_schema_parses_with_every_seed(nano: LLM) -> None:
    """100 seeds at a temperature at which the model says anything."""
    params = [
        SamplingParams(
            temperature=2.0, seed=seed, max_tokens=200, structured_outputs=StructuredOutputsParams(json=SCHEMA)
        )
        for seed in range(100)
    ]
    outputs = nano.generate(["Write JSON: "] * 100, params, use_tqdm=False)
    for output in outputs:
        answer = output.outputs[0]
        check(json.loads(answer.text))
        assert answer.finish_reason == "stop" and answer.token_ids[-1] == 2
    assert len({output.outputs[0].text for output in outputs}) > 90
    assert_idle(nano.engine)


def test_the_kinds_of_grammar(nano: LLM) -> None:
    date = r"\d{4}-(0[1-9]|1[0-2])-\d\d"
    assert re.fullmatch(date, one(nano, structured_outputs=StructuredOutputsParams(regex=date)).text)
    choice = ["yes", "no", 'a "quoted" one', "naïve 🦙"]
    for seed in range(8):
        wanted = StructuredOutputsParams(choice=choice)
        assert one(nano, temperature=4.0, seed=seed, structured_outputs=wanted).text in choice
    ebnf = 'root ::= "<" item ("," item){2} ">"\nitem ::= [a-z] [0-9]'
    assert re.fullmatch(
        r"<[a-z]\d(,[a-z]\d){2}>", one(nano, structured_outputs=StructuredOutputsParams(grammar=ebnf)).text
    )
    lark = 'start: "(" NUMBER ")"\nNUMBER: /[1-9][0-9]{2}/'
    assert re.fullmatch(r"\([1-9]\d\d\)", one(nano, structured_outputs=StructuredOutputsParams(grammar=lark)).text)
    text = one(nano, structured_outputs=StructuredOutputsParams(json=json.dumps(SCHEMA))).text
    check(json.loads(text))
    # Any object at all may go on for ever; but it is one as far as it goes.
    assert one(nano, structured_outputs=StructuredOutputsParams(json_object=True)).text.startswith("{")


@pytest.mark.parametrize(
    "given",
    [
        {"json": {"enum": ["<|end|>"]}},
        {"json": {"const": "x<|user|>y"}},
        {"json": {"type": "object", "properties": {"<|end|>": {"type": "null"}}, "required": ["<|end|>"],
                  "additionalProperties": False}},
        {"choice": ["a<|end|>b"]},
        {"choice": ["<|bos|>x"]},
        {"choice": ["🦙<|end|><|end|>", "🦙<|end|><|user|>"]},
        {"regex": r"<\|end\|>(<\|user\|>){2}é<\|end\|>"},
    ],
    ids=str,
)  # fmt: skip
def test_the_text_of_a_special_token_is_written_with_ordinary_ones(nano: LLM, given: dict[str, Any]) -> None:
    """Where no other text may follow, llguidance would name the special token: the end of the answer, or none."""
    answer = one(nano, structured_outputs=StructuredOutputsParams(**given), temperature=1.0, seed=1)
    assert answer.finish_reason == "stop" and answer.token_ids[-1] == 2 and min(answer.token_ids[:-1]) > 5
    if "regex" in given:
        assert answer.text == "<|end|><|user|><|user|>é<|end|>"
    elif "choice" in given:
        assert answer.text in given["choice"]
    else:
        said = json.loads(answer.text)
        assert said in ("<|end|>", "x<|user|>y") or said == {"<|end|>": None}


def test_a_grammar_may_name_special_tokens_itself(nano: LLM) -> None:
    lark = 'start: "a" <|user|> "b"'
    answer = one(nano, structured_outputs=StructuredOutputsParams(grammar=lark))
    assert answer.token_ids[1:] == [4, *nano.get_tokenizer().encode("b", add_special_tokens=False), 2]


def test_an_answer_that_left_its_grammar_does_not_end_as_if_it_were_whole(nano: LLM) -> None:
    """It cannot happen but by the library's own limits, so the matcher is told a token that was never said."""
    params = SamplingParams(temperature=0, structured_outputs=StructuredOutputsParams(regex="[a-z]{30}"))
    request = nano.engine.add_request("The", params)
    nano.engine.step()
    nano.engine.core.grammars.active[request.id].state.consume_tokens([7])
    outputs: list[RequestOutput] = []
    while nano.engine.has_requests:
        outputs += nano.engine.step()
    answer = outputs[-1].outputs[0]
    assert answer.finish_reason == "abort" and len(answer.token_ids) <= 3
    assert_idle(nano.engine)


@pytest.mark.parametrize("lark", ['?start: item\nitem: "ab" | "cd"', '// a comment\n%ignore " "\nstart: "ab"'])
def test_larks_notation_in_all_its_beginnings(nano: LLM, lark: str) -> None:
    assert one(nano, structured_outputs=StructuredOutputsParams(grammar=lark)).text.strip() in ("ab", "cd")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"json": {"type": "objct"}}, "structured_outputs: json: .*objct"),
        ({"json": "{bad"}, "structured_outputs: json: "),
        ({"json": {"type": "string", "pattern": "("}}, "structured_outputs: json: "),
        ({"regex": "(ab"}, "structured_outputs: regex: .*unclosed group"),
        ({"grammar": "start: missing"}, "structured_outputs: grammar: .*missing"),
        ({"grammar": "root ::= ("}, "structured_outputs: grammar: "),
    ],
)
def test_a_bad_one_refuses_that_request_alone(nano: LLM, given: dict[str, Any], says: str) -> None:
    good = nano.engine.add_request("The", SamplingParams(temperature=0, max_tokens=4))
    bad = SamplingParams(structured_outputs=StructuredOutputsParams(**given))
    with pytest.raises(ValueError, match=re.compile(says, re.DOTALL)):
        nano.engine.add_request("The", bad)
    outputs: list[RequestOutput] = []
    while nano.engine.has_requests:
        outputs += nano.engine.step()
    assert [output.request_id for output in outputs] == [good.id]
    assert_idle(nano.engine)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "nothing; give one of json, json_object, regex, choice, grammar"),
        ({"regex": "a", "choice": ["b"]}, "regex and choice; give one"),
        ({"choice": []}, "choice is []"),
        ({"choice": ["a", ""]}, "choice is ['a', '']"),
        ({"choice": "ab"}, "choice is 'ab'"),
        ({"json": 5}, "json is 5"),
        ({"json": {"a": set()}}, "json is {'a': set()}; it must be a JSON schema"),
        ({"regex": ""}, "regex is ''"),
        ({"grammar": 1}, "grammar is 1"),
        ({"json_object": False}, "nothing; give one of"),
    ],
)
def test_a_request_for_nothing_or_for_two_things(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        StructuredOutputsParams(**given)


def test_without_the_library_it_says_what_to_install(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    engine = make_engine(oracle.folder)
    with pytest.raises(ValueError, match="pip install llguidance"):
        engine.add_request([5], SamplingParams(structured_outputs=StructuredOutputsParams(regex="a")))
    assert_idle(engine)


def structured(
    oracle: Oracle, regex: str, settings: dict[str, Any], count: int = 1, **params: Any
) -> list[RequestOutput]:
    """On the tiny checkpoint, whose tokens are bytes. With few pages there must be a preemption."""
    engine = make_engine(oracle.folder, debug_checks=True, **settings)
    wanted = StructuredOutputsParams(regex=regex)
    for i in range(count):
        chosen = {"temperature": 1.0, "seed": i, "max_tokens": 30, **params}
        engine.add_request([5, 6, 7 + i], SamplingParams(structured_outputs=wanted, **chosen))
    done = {}
    while engine.has_requests:
        for output in engine.step():
            done[output.request_id] = output
    assert_idle(engine)
    assert bool(engine.scheduler.num_preemptions) == ("num_pages" in settings)
    return [done[i] for i in sorted(done)]


def test_after_a_preemption_the_grammar_goes_on_where_it_was(oracle: Oracle) -> None:
    regex = "[a-z]{8}-[0-9]{8}"
    roomy = structured(oracle, regex, {}, count=4)
    tight = structured(oracle, regex, {"page_size": 4, "num_pages": 10}, count=4)
    assert [o.outputs[0].token_ids for o in tight] == [o.outputs[0].token_ids for o in roomy]
    assert all(re.fullmatch(regex, output.outputs[0].text) for output in tight)


def test_each_of_several_answers_keeps_to_it(oracle: Oracle) -> None:
    (output,) = structured(oracle, "[a-z]{3,9}[.]", {}, n=4)
    texts = [answer.text for answer in output.outputs]
    assert len(set(texts)) == 4 and all(re.fullmatch("[a-z]{3,9}[.]", text) for text in texts)


def test_a_complete_answer_ends_even_before_min_tokens(oracle: Oracle) -> None:
    """And an answer that may go on does."""
    (output,) = structured(oracle, "abc", {}, min_tokens=10)
    assert (output.outputs[0].text, output.outputs[0].token_ids[-1]) == ("abc", EOS)
    for seed in range(5):
        (output,) = structured(oracle, "a+", {}, min_tokens=10, seed=seed, logit_bias={EOS: 20.0})
        assert output.outputs[0].text == "a" * 10


def test_with_stop_strings_penalties_and_bias(oracle: Oracle) -> None:
    (output,) = structured(oracle, "[a-e]{20}", {}, stop=["a", "b"], repetition_penalty=1.5, presence_penalty=0.5)
    answer = output.outputs[0]
    assert re.fullmatch("[c-e]*", answer.text) and answer.stop_reason in ("a", "b")


def test_the_ends_of_the_model_all_count(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder)
    engine.core.eos_ids = (EOS, 0)
    engine.core.grammars.eos_ids = (EOS, 0)
    params = SamplingParams(
        temperature=0, logit_bias={0: 50.0}, structured_outputs=StructuredOutputsParams(regex="ab?")
    )
    engine.add_request([5], params)
    outputs: list[RequestOutput] = []
    while engine.has_requests:
        outputs += engine.step()
    assert outputs[0].outputs[0].token_ids[-1] == 0 and outputs[0].outputs[0].text == "a"


def test_going_on_after_the_end_is_free_again(oracle: Oracle) -> None:
    (output,) = structured(oracle, "abc", {}, ignore_eos=True, max_tokens=20)
    ids = output.outputs[0].token_ids
    assert len(ids) == 20 and ids[3] == EOS and output.outputs[0].text.startswith("abc")


def test_a_checkpoint_without_an_end_refuses(oracle: Oracle) -> None:
    engine = make_engine(oracle.folder)
    engine.core.grammars.eos_ids = ()
    with pytest.raises(ValueError, match="names no end-of-sequence token"):
        engine.add_request([5], SamplingParams(structured_outputs=StructuredOutputsParams(regex="a")))
    assert_idle(engine)


def test_the_same_grammar_is_compiled_once(nano: LLM) -> None:
    params = StructuredOutputsParams(regex="once+")
    assert nano.engine.core.grammars.compile(params) is nano.engine.core.grammars.compile(
        StructuredOutputsParams(regex="once+")
    )
    for i in range(70):
        nano.engine.core.grammars.compile(StructuredOutputsParams(regex=f"a{i}"))
    assert len(nano.engine.core.grammars._compiled) == 64


@pytest.mark.parametrize("more", [1, 40])
def test_a_tokenizer_with_more_tokens_than_the_model(tmp_path: Path, more: int) -> None:
    """As multimodal checkpoints have them: what the model cannot say is never allowed."""
    folder = tmp_path / "model"
    shutil.copytree(ASSETS / "nano-llama", folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"] += [
        {"id": 4096 + i, "content": f"<soft {i}>", "special": True, **flags} for i in range(more)
    ]
    path.write_text(json.dumps(content), encoding="utf-8")
    llm = LLM(str(folder), num_pages=20)
    for given in ({"choice": ["yes", "no"]}, {"regex": "[0-9]{2}"}, {"json": {"type": "boolean"}}):
        params = SamplingParams(temperature=0, max_tokens=8, structured_outputs=StructuredOutputsParams(**given))
        answer = llm.generate("Is it?", params, use_tqdm=False)[0].outputs[0]
        assert answer.text in ("yes", "no", "true", "false") or answer.text.isdigit()
        assert answer.finish_reason == "stop"
