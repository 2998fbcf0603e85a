"""Messages in the forms that people have them, and templates that read them: the text that transformers makes."""

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tiny import edit_json
from transformers import AutoTokenizer

from minillm.hub import ASSETS
from minillm.text.messages import normalise
from minillm.text.template import Template
from minillm.text.tokenizer import Tokenizer

WRITES = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
GOES_THROUGH = "{% for m in messages %}<{{ m.role }}>{% for p in m['content'] %}{{ p.text }};{% endfor %}{% endfor %}"
TAKES_BOTH = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}[{{ p.text }}]"
    "{% endfor %}{% endif %}{% endfor %}"
)
# The features of the families that are used most, each small.
TEMPLATES = {
    "writes": WRITES,
    "generation tags": "{% for m in messages %}{% if m.role == 'assistant' %}{%- generation -%}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}|{% endif %}{% endfor %}",
    "tools as JSON": "{% if tools is not none %}{{ tools | tojson(indent=4) }}{% endif %}{{ messages[0].content }}",
    "sorted JSON": "{{ messages | tojson(sort_keys=true, separators=(',', ':')) }}",
    "tool calls": "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.name }}"
    "({{ c.function.arguments | tojson }}){% endfor %}{% else %}{{ m.role }}: {{ m.content }}{% endif %}{% endfor %}",
    "the date": "{{ strftime_now('%Y') }} {{ messages[0].content }}",
    "loop controls": "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.content }}"
    "{% endfor %}",
    "thinking": WRITES + "{% if add_generation_prompt %}<a>{% if enable_thinking is defined and enable_thinking is "
    "false %}<no think>{% endif %}{% endif %}",
    "a default system prompt": "{% if messages[0].role != 'system' %}You are helpful. {% endif %}" + WRITES,
    "documents": "{% if documents %}{{ documents | length }} documents. {% endif %}{{ messages[-1].content }}",
    "names": "{{ bos_token }}{% if pad_token is defined %}[{{ pad_token }}]{% endif %}{{ messages[0].content }}"
    "{{ eos_token }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "macro": "{% macro say(m) %}<{{ m.role }}>{{ m.content | trim }}{% endmacro %}"
    "{% for m in messages %}{{ say(m) }}{% endfor %}",
    "text methods": "{% for m in messages %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% endfor %}",
}  # fmt: skip
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}}}
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "A."}, {"role": "system", "content": "B."}, {"role": "user", "content": ""}],
    [
        {"role": "user", "content": "  a\n\n"},
        {"role": "assistant", "content": "<think>b</think>\n\nc <|end|> {{ d }}"},
        {"role": "user", "content": "Ünï 🦙", "name": "Ada"},
    ],
    [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
    ],
]  # fmt: skip
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"add_generation_prompt": False},
    {"tools": [TOOL]},
    {"documents": [{"title": "t", "text": "x"}]},
    {"enable_thinking": False},
]


def with_template(folder: Path, template: str) -> Path:
    shutil.copytree(ASSETS / "nano-llama", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    edit_json(folder / "tokenizer_config.json", chat_template=template)
    return folder


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_give_the_text_that_transformers_gives(tmp_path: Path, name: str) -> None:
    folder = with_template(tmp_path / "model", TEMPLATES[name])
    ours, theirs = Tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for chat in CHATS:
        for options in OPTIONS:
            wanted = theirs.apply_chat_template(chat, tokenize=False, **{"add_generation_prompt": True, **options})
            assert ours.apply_chat_template(chat, **options) == wanted, (chat, options)
            ids = ours.encode(wanted, add_special_tokens=False)
            assert ids == theirs.encode(wanted, add_special_tokens=False)


def test_the_date_is_todays(tmp_path: Path) -> None:
    ours = Tokenizer(with_template(tmp_path / "model", TEMPLATES["the date"]))
    assert ours.apply_chat_template(CHATS[0]) == f"{datetime.now():%Y} Hi"


def test_a_begun_answer_goes_on(tmp_path: Path) -> None:
    ours = Tokenizer(with_template(tmp_path / "model", WRITES + "<end>"))
    chat = [CHATS[0][0], {"role": "assistant", "content": "Hello, I"}]
    asked = {"add_generation_prompt": False, "continue_final_message": True}
    assert ours.apply_chat_template(chat, **asked) == "<user>Hi<assistant>Hello, I"
    with pytest.raises(ValueError, match="continue_final_message and add_generation_prompt"):
        ours.apply_chat_template(chat, continue_final_message=True)


PARTS = [{"type": "text", "text": "a"}, "b", {"type": "input_text", "text": "c"}]


@pytest.mark.parametrize(
    ("template", "content", "text"),
    [
        (WRITES, PARTS, "<user>a\nb\nc"),
        (WRITES, None, "<user>"),
        (WRITES, [], "<user>"),
        (GOES_THROUGH, PARTS, "<user>a;b;c;"),
        (GOES_THROUGH, "a", "<user>a;"),
        (TAKES_BOTH, "a", "a"),
        (TAKES_BOTH, PARTS, "[a][b][c]"),
        ("{% set c = messages[0].content %}{% for p in c %}{{ p.text }}{% endfor %}", "a", "a"),
    ],
)  # fmt: skip
def test_content_comes_in_the_form_that_the_template_reads(
    tmp_path: Path, template: str, content: Any, text: str
) -> None:
    tokenizer = Tokenizer(with_template(tmp_path / "model", template))
    assert tokenizer.apply_chat_template([{"role": "user", "content": content}]) == text


@pytest.mark.parametrize("arguments", ['{"city": "Zürich", "days": 2}', {"city": "Zürich", "days": 2}])
def test_a_tool_calls_arguments_are_an_object(arguments: Any) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    (message,) = normalise([{"role": "assistant", "content": None, "tool_calls": [call]}], Template(WRITES))
    assert message["content"] == "" and message["tool_calls"][0]["function"]["arguments"] == {
        "city": "Zürich",
        "days": 2,
    }
    assert call["function"]["arguments"] is arguments, "what the caller gave is not changed"


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "the conversation is empty"),
        ("Hi", "must be a list of"),
        ([{"content": "Hi"}], "message 0 has the role None"),
        (["Hi"], "message 0 is 'Hi'; it must be a dict"),
        ([CHATS[0][0], {"role": "user", "content": 3}], "message 1 has the content 3"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "message 0, part 0 is of type 'image_url'; only text is served",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 0, part 0 has None where its text should be"),
        ([{"role": "assistant", "tool_calls": ["f"]}], "message 0, tool call 0 is 'f'"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{a"}}]}],
            "tool call 0 has arguments that are no JSON",
        ),
    ],
)
def test_what_is_no_message_is_named(messages: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        normalise(messages, Template(WRITES))


def test_a_chat_takes_vllms_arguments(tmp_path: Path) -> None:
    from minillm import LLM, SamplingParams

    llm, params = LLM("nano-llama", num_pages=20), SamplingParams(temperature=0, max_tokens=1)
    own = "{% if tools %}{{ tools[0].function.name }}|{% endif %}{{ mood }}|{{ messages[0].content }}"
    file = tmp_path / "own.jinja"
    file.write_text(own, encoding="utf-8")
    for template in (own, str(file)):
        asked = {"chat_template": template, "tools": [TOOL], "chat_template_kwargs": {"mood": "calm"}}
        (output,) = llm.chat(CHATS[0], params, use_tqdm=False, **asked)
        assert output.prompt == "weather|calm|Hi"
    (streamed,) = [o for o in llm.stream_chat(CHATS[0], params, add_generation_prompt=False) if o.finished]
    assert streamed.prompt == json.loads('"<|bos|><|user|>Hi<|end|>"')
