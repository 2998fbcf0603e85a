"""The bundled mixture of experts: its files, its card, that it still answers, and that its experts are all of use.

Read with Hugging Face first, which says whether the files are right whatever runs them; the last tests ask the engine.
"""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, Qwen3MoeForCausalLM

from minillm import LLM, SamplingParams
from minillm.hub import bundled_models

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "minillm" / "assets"
MODEL, DENSE = ASSETS / "nano-moe", ASSETS / "nano-llama"
LAYERS, EXPERTS, CHOSEN = 6, 8, 2
ASKED = ["What is a radix cache?", "What is a KV cache?", "How does paged attention work?"]  # the last: held out
CODE = (
    'def read_lines(path, encoding="utf-8"):\n    """Return the lines of a file."""\n    # to the end\n    return []\n'
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODEL, local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Qwen3MoeForCausalLM:
    return Qwen3MoeForCausalLM.from_pretrained(MODEL, local_files_only=True, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    """question -> answer, all phrasings"""
    rows = [row for file in (ASSETS / "glossary").glob("*.yaml") for row in yaml.safe_load(file.read_text("utf-8"))]
    return {question: row["answer"] for row in rows for question in row["questions"] + row["held_out"]}


@pytest.fixture(scope="module")
def evaluation() -> dict:
    return json.loads((MODEL / "evaluation.json").read_text())


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False).input_ids


def routes(model: Qwen3MoeForCausalLM, ids: list[int]) -> torch.Tensor:
    """[L, T, K]: the experts that Hugging Face's routers choose."""
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), output_router_logits=True).router_logits
    return torch.stack(list(logits)).topk(CHOSEN, dim=-1).indices


def test_all_files_are_there_and_small() -> None:
    assert {path.name for path in MODEL.iterdir()} == {path.name for path in DENSE.iterdir()}
    assert (MODEL / "model.safetensors").stat().st_size < 26e6
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 26.5e6


def test_it_is_found_by_its_name() -> None:
    assert "nano-moe" in bundled_models()


def test_tokenizer_is_nano_llamas(tokenizer: PreTrainedTokenizerBase) -> None:
    assert (MODEL / "tokenizer.json").read_bytes() == (DENSE / "tokenizer.json").read_bytes()
    ours, theirs = (json.loads((folder / "tokenizer_config.json").read_text()) for folder in (MODEL, DENSE))
    assert ours.pop("chat_template") == theirs.pop("chat_template").replace("nano-llama", "nano-moe")
    assert ours == theirs
    # transformers chooses a tokenizer's class by the model's type too: the words must come out the same.
    other = AutoTokenizer.from_pretrained(DENSE, local_files_only=True)
    for text in (CODE, "caf\u00e9 \u4f60\u597d 12345  \t\n", ASKED[0]):
        assert tokenizer(text).input_ids == other(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids[1:]) == text


def test_config_reads_in_both_generations_of_transformers() -> None:
    config = json.loads((MODEL / "config.json").read_text())
    assert config["architectures"] == ["Qwen3MoeForCausalLM"]
    sizes = "vocab_size hidden_size moe_intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
    assert [config[name] for name in f"{sizes} head_dim".split()] == [4096, 256, 256, LAYERS, 8, 4, 64]
    assert config["num_experts"] == config["num_local_experts"] == EXPERTS
    assert config["num_experts_per_tok"] == CHOSEN
    assert config["norm_topk_prob"] is True
    assert (config["decoder_sparse_step"], config["mlp_only_layers"]) == (1, [])  # experts in every layer
    assert config["tie_word_embeddings"] is True
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000
    assert config["torch_dtype"] == config["dtype"] == "bfloat16"
    read = AutoConfig.from_pretrained(MODEL, local_files_only=True)
    assert (type(read).__name__, read.num_experts) == ("Qwen3MoeConfig", EXPERTS)


def test_weights_have_the_usual_names_and_sizes_for_marlin() -> None:
    with safe_open(MODEL / "model.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        dtypes = {file.get_slice(name).get_dtype() for name in shapes}
    assert dtypes == {"BF16"}
    assert "lm_head.weight" not in shapes
    for layer in range(LAYERS):
        assert shapes[f"model.layers.{layer}.mlp.gate.weight"] == (EXPERTS, 256)
        assert shapes[f"model.layers.{layer}.self_attn.q_norm.weight"] == (64,)
        for expert in range(EXPERTS):
            for part in ("gate_proj", "up_proj", "down_proj"):
                assert shapes[f"model.layers.{layer}.mlp.experts.{expert}.{part}.weight"] == (256, 256)
    projections = {name: shape for name, shape in shapes.items() if "_proj" in name}
    assert len(projections) == LAYERS * (4 + 3 * EXPERTS)
    for name, (outputs, inputs) in projections.items():
        assert inputs % 128 == 0 and outputs % 64 == 0, name


def test_transformers_finds_every_weight(model: Qwen3MoeForCausalLM, evaluation: dict) -> None:
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert all(torch.isfinite(weight).all() for weight in model.state_dict().values())
    assert sum(parameter.numel() for parameter in model.parameters()) == evaluation["parameters"]


@pytest.mark.parametrize("question", ASKED)
def test_answers_exactly(
    model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerBase, answers: dict[str, str], question: str
) -> None:
    ids = torch.tensor([prompt_ids(tokenizer, question)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=90, do_sample=False)
    assert tokenizer.decode(out[0, ids.shape[1] :]) == answers[question] + "<|end|>"


def test_every_expert_of_every_layer_is_used(
    model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerBase, answers: dict[str, str]
) -> None:
    questions = list(answers)[::100]  # from all over the glossary
    texts = [tokenizer(CODE * 4).input_ids, *(prompt_ids(tokenizer, question) for question in questions)]
    texts += [tokenizer(answers[question]).input_ids for question in questions]
    chosen = torch.cat([routes(model, ids) for ids in texts], dim=1)  # [L, T, K]
    for layer, experts in enumerate(chosen):
        counts = experts.flatten().bincount(minlength=EXPERTS)
        assert counts.min() > 0.01 * counts.sum(), f"layer {layer}: {counts.tolist()}"


def test_experts_were_measured_to_specialise(evaluation: dict) -> None:
    experts = evaluation["experts"]
    counts, tokens = torch.tensor(experts["counts"]), torch.tensor(experts["tokens"])  # [L, E, kinds], [kinds]
    assert counts.shape == (LAYERS, EXPERTS, len(experts["kinds"]))
    assert (counts.sum(dim=1) == CHOSEN * tokens).all()  # each token went to two
    used = counts.sum(dim=2) / tokens.sum()  # [L, E], 0.25 if even
    assert used.min() > 0.1 and used.max() < 0.6
    assert ((counts / tokens).amax(dim=(1, 2)) > 0.7).all()  # in each layer some kind has an expert of its own


def test_was_trained_on_the_glossary_as_it_is(answers: dict[str, str]) -> None:
    training = json.loads((MODEL / "training.json").read_text())
    assert training["questions"] + training["held_out_questions"] == len(answers), "retrain: the glossary has changed"


def test_card_states_what_was_measured(evaluation: dict) -> None:
    card, rates = (MODEL / "README.md").read_text(), evaluation["answers"]
    assert rates["trained"]["exact"] >= 0.99
    assert rates["held_out"]["exact"] >= 0.9
    for name in ["trained", "held_out", "off_topic_held_out"]:
        assert f"{rates[name]['exact']:.1%}" in card
    assert f"{evaluation['text']['held_out']['bits_per_byte']:.3f}" in card
    assert f"{evaluation['parameters']:,} parameters, {evaluation['active_parameters']:,} of them" in card


@pytest.mark.parametrize("name", ["nano-moe", "nano-llama"])
def test_card_is_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from nano.card import write_card
    from nano.models import MODELS

    (tmp_path / "model.safetensors").write_bytes((ASSETS / name / "model.safetensors").read_bytes())
    files = [json.loads((ASSETS / name / file).read_text()) for file in ("training.json", "evaluation.json")]
    write_card(MODELS[name], tmp_path, *files)
    # Formatters touch the Python in a card, so all but that.
    written, shipped = (
        re.sub(r"```python.*?```", "", (folder / "README.md").read_text(), flags=re.S)
        for folder in (tmp_path, ASSETS / name)
    )
    assert written == shipped
    assert json.loads((ASSETS / name / "config.json").read_text()) == MODELS[name].config


def test_training_computes_what_is_shipped(
    model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All experts for all tokens, weighted by zero or not, is the same as choosing; and saving loses nothing."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from nano.model import build_model, save_model
    from nano.models import NANO_MOE

    trained = build_model(NANO_MOE, dropout=0.25).eval()
    trained.load_state_dict(model.state_dict())
    ids = torch.tensor([tokenizer(CODE * 2).input_ids])
    with torch.inference_mode():
        torch.testing.assert_close(trained(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-3)
    save_model(NANO_MOE, trained, tmp_path)
    with (
        safe_open(tmp_path / "model.safetensors", "pt") as ours,
        safe_open(MODEL / "model.safetensors", "pt") as theirs,
    ):
        assert set(ours.keys()) == set(theirs.keys())
        for name in ours.keys():  # noqa: SIM118
            assert torch.equal(ours.get_tensor(name), theirs.get_tensor(name)), name


def test_kinds_of_code(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kinds that experts are compared on: each token of the model by the role that it has in Python."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from nano.kinds import KEYWORD, NAME, PROSE, SPACE, STRING, SYMBOL, character_kinds, code_row

    kinds = character_kinds(CODE)
    wanted = {"def": KEYWORD, "path": NAME, "utf-8": STRING, "Return the": PROSE, "# to": PROSE, "[]": SYMBOL}
    assert {part: set(kinds[CODE.index(part) :][: len(part.rstrip())]) for part in wanted} == {
        part: {kind} for part, kind in wanted.items()
    }
    row = code_row(tokenizer.backend_tokenizer, CODE)
    assert len(row.ids) == len(row.kinds)
    assert [tokenizer.decode([token]).strip() for token, kind in zip(row.ids, row.kinds) if kind == KEYWORD] == [
        "def",
        "return",
    ]
    assert all(not tokenizer.decode([token]).strip() for token, kind in zip(row.ids, row.kinds) if kind == SPACE)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("nano-moe", dtype="float32", num_pages=64)


def test_the_engine_answers_exactly(llm: LLM, answers: dict[str, str]) -> None:
    messages = [[{"role": "user", "content": question}] for question in ASKED]
    outputs = llm.chat(messages, SamplingParams(temperature=0, max_tokens=90), use_tqdm=False)
    assert [output.outputs[0].text for output in outputs] == [answers[question] for question in ASKED]


def test_the_engine_routes_as_hugging_face_does(
    llm: LLM, model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    from minillm.debug.experts import ExpertTracker

    rows = [tokenizer(CODE).input_ids, *(prompt_ids(tokenizer, question) for question in ASKED)]
    with ExpertTracker(llm) as tracker:
        llm.generate([{"prompt_token_ids": ids} for ids in rows], SamplingParams(max_tokens=1), use_tqdm=False)
    chosen = torch.cat([routes(model, ids) for ids in rows], dim=1)  # [L, T, K]
    counts = torch.stack([experts.flatten().bincount(minlength=EXPERTS) for experts in chosen])  # [L, E]
    assert tracker.tokens.tolist() == counts.tolist()


def test_the_cards_counts_come_from_the_engine(
    model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row for row and token for token what Hugging Face's routers choose; a kind's counts are of its own tokens."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from nano.experts import describe_experts
    from nano.experts import routes as routes_of_the_engine
    from nano.kinds import Sample, code_row

    rows = [Sample(ids, ["asked"] * len(ids)) for ids in (prompt_ids(tokenizer, question) for question in ASKED)]
    rows.append(code_row(tokenizer.backend_tokenizer, CODE * 40))  # longer than a step's budget of tokens for all
    chosen = routes_of_the_engine(MODEL, rows)
    assert [list(layers.shape) for layers in chosen] == [[LAYERS, len(row.ids), CHOSEN] for row in rows]
    for layers, row in zip(chosen, rows):
        assert (layers == routes(model, row.ids)).float().mean() > 0.999  # all but near ties
    described = describe_experts(MODEL, EXPERTS, rows)
    asked = described["kinds"].index("asked")
    together = torch.cat(chosen[: len(ASKED)], dim=1)  # [L, T, K]
    for counts, experts in zip(described["counts"], together):
        assert [of_expert[asked] for of_expert in counts] == experts.flatten().bincount(minlength=EXPERTS).tolist()
