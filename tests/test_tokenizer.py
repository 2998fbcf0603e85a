"""The tokenizer and the chat template against transformers' own."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import edit_json, make_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from minillm.hub import ASSETS, bundled_models, resolve_model
from minillm.text.messages import Message
from minillm.text.tokenizer import Tokenizer

CONVERSATIONS: list[list[Message]] = [
    [{"role": "user", "content": "What is a page?"}],
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "  c\n\n"}],
    [{"role": "user", "content": "Ünïcödé 🦙 {{ not jinja }} <|user|>"}],
    [{"role": "user", "content": ""}],
]
TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two  spaces\n\n\ttab",
    "Ünïcödé 漢字 🦙🏽‍🚀",
    "x" * 500,
    "def f(x):\n    return x + 1\n",
    "<|user|></s>",
]


@pytest.fixture(scope="module", params=bundled_models())
def both(request: pytest.FixtureRequest) -> tuple[Tokenizer, PreTrainedTokenizerBase]:
    folder = ASSETS / request.param
    return Tokenizer(folder), AutoTokenizer.from_pretrained(folder)


def test_a_model_ships() -> None:
    assert "nano-llama" in bundled_models()
    assert resolve_model("nano-llama") == ASSETS / "nano-llama"


def test_bundled_tokenizers_encode_and_decode_as_transformers_do(
    both: tuple[Tokenizer, PreTrainedTokenizerBase],
) -> None:
    ours, theirs = both
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text), text
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.vocab_size == len(theirs)


@given(text=st.text(max_size=60))
@settings(max_examples=60)
def test_any_text_encodes_as_with_transformers_and_comes_back(
    both: tuple[Tokenizer, PreTrainedTokenizerBase], text: str
) -> None:
    ours, theirs = both
    ids = ours.encode(text, add_special_tokens=False)
    assert ids == theirs.encode(text, add_special_tokens=False)
    assert ours.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=lambda messages: str(len(messages)))
@pytest.mark.parametrize("prompt", [True, False])
def test_bundled_chat_templates_render_as_transformers_do(
    both: tuple[Tokenizer, PreTrainedTokenizerBase], messages: list[Message], prompt: bool
) -> None:
    ours, theirs = both
    text = theirs.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
    assert ours.apply_chat_template(messages, add_generation_prompt=prompt) == text
    if prompt:
        ids = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        assert ours.encode_chat(messages) == ids


# Templates as they come with real models: loops with control words, trimmed blocks, filters, errors of their own.
TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama": "{{ bos_token }}{%- for m in messages %}\n    {%- if m.role == 'system' %}{% continue %}{% endif %}\n"
    "[{{ m['role'] | upper }}] {{ m['content'] }}{{ eos_token }}\n{%- endfor %}",
    "loops": "{% for m in messages %}\n  {% if loop.index0 == 2 %}{% break %}{% endif %}\n"
    "{{ loop.index }}{{ m | tojson }}\n{% endfor %}",
    "indent": "{{ messages | tojson(indent=2) }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tokenizer(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_of_all_kinds_render_as_transformers_do(folder: Path, name: str) -> None:
    edit_json(folder / "tokenizer_config.json", chat_template=TEMPLATES[name])
    ours, theirs = Tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for messages in CONVERSATIONS:
        for prompt in (True, False):
            expected = theirs.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
            assert ours.apply_chat_template(messages, prompt) == expected


def test_a_template_in_a_file_of_its_own_wins(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("from the file: {{ messages[0].content }}", encoding="utf-8")
    messages = CONVERSATIONS[0]
    assert Tokenizer(folder).apply_chat_template(messages) == "from the file: What is a page?"
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs.apply_chat_template(messages, tokenize=False) == "from the file: What is a page?"


def test_of_several_named_templates_the_default_is_taken(folder: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    edit_json(folder / "tokenizer_config.json", chat_template=named)
    assert Tokenizer(folder).apply_chat_template(CONVERSATIONS[0]) == "plain"


def test_special_tokens_written_as_objects(folder: Path) -> None:
    edit_json(
        folder / "tokenizer_config.json", bos_token={"content": "<s>"}, chat_template="{{ bos_token }}{{ pad_token }}|"
    )
    assert Tokenizer(folder).apply_chat_template(CONVERSATIONS[0]) == "<s>|"


def test_without_a_template_chat_says_what_to_use(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    with pytest.raises(
        ValueError, match=r"has no chat template; use generate with a prompt of your own instead of chat"
    ):
        Tokenizer(folder).apply_chat_template(CONVERSATIONS[0])


def test_a_template_may_refuse_a_conversation(folder: Path) -> None:
    from jinja2 import TemplateError

    edit_json(folder / "tokenizer_config.json", chat_template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TemplateError, match="roles must alternate"):
        Tokenizer(folder).apply_chat_template(CONVERSATIONS[0])


def test_a_template_cannot_reach_the_machine(folder: Path) -> None:
    from jinja2.exceptions import SecurityError

    edit_json(folder / "tokenizer_config.json", chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(SecurityError):
        Tokenizer(folder).apply_chat_template(CONVERSATIONS[0])


def test_one_token_as_text_shows_special_ones(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    assert tokenizer.token(1) == "</s>" and tokenizer.token(tokenizer.encode("A")[0]) == "A"
    assert tokenizer.decode([1]) == ""


def test_the_config_is_kept(folder: Path) -> None:
    assert Tokenizer(folder).config == json.loads((folder / "tokenizer_config.json").read_text())
