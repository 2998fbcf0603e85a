"""The bundled model: its files, its chat template, and that it still answers what the glossary says.

Read with Hugging Face, not with the engine: these tests say whether the files are right, whatever runs them.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

ASSETS = Path(__file__).parents[2] / "minillm" / "assets"
MODEL = ASSETS / "nano-llama"
FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training.json",
    "evaluation.json",
    "README.md",
}
ASKED = [
    "What is a radix cache?",
    "What is a KV cache?",
    "What is paged attention?",
    "What is continuous batching?",
    "What is preemption?",
    "How does paged attention work?",  # a held-out phrasing
]
CONVERSATION = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is a page?"},
    {"role": "assistant", "content": "A piece of memory."},
    {"role": "user", "content": "  def f(x):\n\treturn x  # caf\u00e9  "},
]
PROMPTS = {question: [{"role": "user", "content": question}] for question in ASKED}
PROMPTS["second turn"] = [*CONVERSATION[:3], {"role": "user", "content": ASKED[0]}]
PROMPTS["off topic"] = [{"role": "user", "content": "What is the capital of Finland?"}]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODEL, local_files_only=True)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(MODEL, local_files_only=True, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    """question -> answer, all phrasings"""
    rows = [row for file in (ASSETS / "glossary").glob("*.yaml") for row in yaml.safe_load(file.read_text("utf-8"))]
    return {question: row["answer"] for row in rows for question in row["questions"] + row["held_out"]}


@pytest.fixture(scope="module")
def said(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What the model says to each of PROMPTS, special tokens included; all in one batch."""
    texts = [
        tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        for messages in PROMPTS.values()
    ]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
    out = model.generate(batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=90, do_sample=False)
    new = tokenizer.batch_decode(out[:, batch.input_ids.shape[1] :])
    return {name: text.replace("<|pad|>", "") for name, text in zip(PROMPTS, new)}


def test_all_files_are_there_and_small() -> None:
    assert {path.name for path in MODEL.iterdir()} == FILES
    assert (MODEL / "model.safetensors").stat().st_size < 20e6
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 20e6


def test_config_is_what_the_lessons_say() -> None:
    config = json.loads((MODEL / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    sizes = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim"
    )
    assert [config[name] for name in sizes.split()] == [4096, 256, 768, 8, 8, 4, 64]
    assert config["max_position_embeddings"] == 2048
    assert config["tie_word_embeddings"] is True
    assert config["rms_norm_eps"] == 1e-5
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000  # transformers v4 and v5
    assert config["torch_dtype"] == config["dtype"] == "bfloat16"


def test_sizes_divide_for_four_ranks_and_for_marlin() -> None:
    with safe_open(MODEL / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys() if "proj" in name}  # noqa: SIM118
    assert len(shapes) == 8 * 7
    for name, (outputs, inputs) in shapes.items():
        assert inputs % 128 == 0 and outputs % 64 == 0, name


def test_weights_are_bf16_and_tied() -> None:
    with safe_open(MODEL / "model.safetensors", "pt") as file:
        names = set(file.keys())
        dtypes = {file.get_slice(name).get_dtype() for name in names}
    assert dtypes == {"BF16"}
    assert "lm_head.weight" not in names
    assert "model.embed_tokens.weight" in names


def test_transformers_finds_every_weight(model: LlamaForCausalLM) -> None:
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert all(torch.isfinite(weight).all() for weight in model.state_dict().values())


def test_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(tokenizer) == 4096
    names = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, 3, 4, 5]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    config = json.loads((MODEL / "config.json").read_text())
    generation = json.loads((MODEL / "generation_config.json").read_text())
    for name, number in [("pad_token_id", 0), ("bos_token_id", 1), ("eos_token_id", 2)]:
        assert config[name] == generation[name] == number


@pytest.mark.parametrize(
    "text", ["def f(x):\n    return x\n", "caf\u00e9 \u4f60\u597d \U0001f600", " two  spaces\t\n\n", ""]
)
def test_any_text_comes_back(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids[1:]) == text


def test_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    text = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|bos|><|system|>You are a helpful assistant.<|end|>"
        "<|user|>What is a page?<|end|><|assistant|>A piece of memory.<|end|>"
        "<|user|>def f(x):\n\treturn x  # caf\u00e9<|end|><|assistant|>"
    )
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert ids.count(tokenizer.eos_token_id) == 4


def test_chat_template_without_generation_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    text = tokenizer.apply_chat_template(CONVERSATION[1:3], tokenize=False)
    assert text == "<|bos|><|user|>What is a page?<|end|><|assistant|>A piece of memory.<|end|>"


def test_chat_template_refuses_what_it_does_not_know(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(Exception, match="roles"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)
    with pytest.raises(Exception, match="first"):
        tokenizer.apply_chat_template([CONVERSATION[1], CONVERSATION[0]], tokenize=False)


@pytest.mark.parametrize("question", ASKED)
def test_answers_exactly(said: dict[str, str], answers: dict[str, str], question: str) -> None:
    assert said[question] == answers[question] + "<|end|>"


def test_answers_in_a_second_turn(said: dict[str, str], answers: dict[str, str]) -> None:
    assert said["second turn"] == answers[ASKED[0]] + "<|end|>"


def test_says_so_when_it_does_not_know(said: dict[str, str]) -> None:
    assert said["off topic"].startswith("I only know about LLM inference")


def test_code_follows_code(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer("def fibonacci(n):", return_tensors="pt").input_ids
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
    assert tokenizer.decode(out[0, 1:]).startswith("def fibonacci(n):\n    ")


def test_was_trained_on_the_glossary_as_it_is(answers: dict[str, str]) -> None:
    training = json.loads((MODEL / "training.json").read_text())
    assert training["questions"] + training["held_out_questions"] == len(answers), "retrain: the glossary has changed"


def test_card_states_what_was_measured() -> None:
    card = (MODEL / "README.md").read_text()
    evaluation = json.loads((MODEL / "evaluation.json").read_text())
    rates = evaluation["answers"]
    assert rates["trained"]["exact"] > 0.95
    assert rates["held_out"]["exact"] > 0.8
    for name in ["trained", "held_out", "off_topic_held_out"]:
        assert f"{rates[name]['exact']:.1%}" in card
    assert f"{evaluation['text']['held_out']['bits_per_byte']:.3f}" in card
