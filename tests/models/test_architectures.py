"""Every architecture against Hugging Face's own model: logits within 1e-4 and the same greedy tokens, in float32.

`PYTHONPATH=tests python tests/models/test_architectures.py` prints how near each one comes.
"""

import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz import examples
from hypothesis import HealthCheck, given, settings
from safetensors.torch import load_file, save_file
from strategies import MAX_MODEL_LEN, scenarios
from tiny import TEXT_VOCAB, Oracle, hf_logits, make_model, write_v4_config
from transformers import AutoModelForCausalLM
from workload import LOGITS_TOLERANCE, Alone, Job, assert_idle, make_engine, run_jobs

import minillm.probe
from minillm.debug.catalogue import catalogue
from minillm.engine.engine import Engine
from minillm.kernels.cpu import kernels as cpu
from minillm.probe import listen

LONGROPE = {"rope_type": "longrope", "rope_theta": 1000.0, "short_factor": [1.0, 1.1, 1.3, 2.0],
            "long_factor": [1.0, 2.1, 4.3, 8.0]}  # fmt: skip
PARTIAL = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
GEMMA_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
}
LATE = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen2 tied, one KV head": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "qwen2 window in later layers": ("qwen2", LATE),
    "qwen2 window switched off": ("qwen2", {**LATE, "use_sliding_window": False}),
    "qwen3": ("qwen3", {}),
    "qwen3 tied, one KV head, biases": (
        "qwen3", {"tie_word_embeddings": True, "num_key_value_heads": 1, "attention_bias": True},
    ),
    "qwen3 window in later layers": ("qwen3", LATE),
    "mistral": ("mistral", {}),
    "mistral window 7": ("mistral", {"sliding_window": 7}),
    "mistral window 1": ("mistral", {"sliding_window": 1}),
    "mistral window longer than all": ("mistral", {"sliding_window": 200}),
    "phi3": ("phi3", {}),
    "phi3 window 5": ("phi3", {"sliding_window": 5}),
    "phi3 half of a head turned": ("phi3", {"rope_parameters": PARTIAL}),
    "phi3 longrope": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 128}),
    "gemma3": ("gemma3_text", {}),
    "gemma3 one KV head, capped, untied": (
        "gemma3_text", {"num_key_value_heads": 1, "final_logit_softcapping": 3.0, "tie_word_embeddings": False},
    ),
    "gemma3 two ropes, head of 10": ("gemma3_text", {"rope_parameters": GEMMA_ROPES, "head_dim": 10}),
    "nanochat": ("nanochat", {}),
    "nanochat one KV head, biases, no cap": (
        "nanochat", {"num_key_value_heads": 1, "attention_bias": True, "final_logit_softcapping": None},
    ),
    "nanochat stretched positions": (
        "nanochat", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}},
    ),
    "opt": ("opt", {}),
    "opt untied, odd heads": ("opt", {"hidden_size": 45, "num_attention_heads": 5, "tie_word_embeddings": False}),
    "opt norm after, narrow embedding": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 20}),
    "opt without biases": ("opt", {"enable_bias": False, "layer_norm_elementwise_affine": False}),
}  # fmt: skip
KINDS = {kind: name for name, (kind, _) in reversed(VARIANTS.items())}  # its plainest variant

SETTINGS: dict[str, dict[str, Any]] = {
    "torch kernels": {"kernels": "torch"},
    "compiled kernels": {"kernels": "cpu", "attention_backend": "cpu"},
    "reference attention": {"attention_backend": "reference"},
    "attention block by block": {"kernels": "torch", "attention_backend": "blockwise"},
    "plain weights": {"pack_weights": False},
    "no cache": {"reuse_kv": False},
    "chunks of 5, pages of 3": {"max_num_batched_tokens": 5, "page_size": 3},
    "torch, chunks of 5, pages of 3": {"kernels": "torch", "max_num_batched_tokens": 5, "page_size": 3},
    "one page a request": {"page_size": "max_model_len", "max_model_len": 128, "num_pages": 3},
    "preemption": {"page_size": 4, "num_pages": 22, "max_num_batched_tokens": 32, "max_model_len": 88},
}
LENGTHS = (37, 1, 20)

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_kind = pytest.mark.parametrize("kind", KINDS)


@functools.cache
def made(variant: str, seed: int = 0, **overrides: Any) -> Oracle:
    """The checkpoint of a variant, written once for all tests, and its Hugging Face model."""
    kind, fields = VARIANTS[variant]
    folder = Path(tempfile.mkdtemp(prefix="minillm-models-"))
    return Oracle(folder, make_model(folder, kind, seed, **{**fields, **overrides}))


def prompts_for(oracle: Oracle) -> list[list[int]]:
    torch.manual_seed(5)
    return [torch.randint(2, oracle.model.config.vocab_size, (length,)).tolist() for length in LENGTHS]


def worst_difference(engine: Engine, model: Any, prompts: list[list[int]], count: int) -> tuple[float, bool, int]:
    """How far any logit is from Hugging Face's, whether all tokens are its greedy ones, and how many differ."""
    logits: dict[int, list[torch.Tensor]] = {}

    def keep(event: Any) -> None:
        for row, scores in zip(event.rows, event.logits):
            logits.setdefault(row.request_id, []).append(scores.clone())

    with listen("sampler.token", keep):
        run = run_jobs(engine, [Job(tuple(prompt), count) for prompt in prompts])
    worst, equal, seen = 0.0, True, set()
    for i, prompt in enumerate(prompts):
        tokens, ours = run.tokens(i), torch.stack(logits[run.finals[i].request_id])
        expected = hf_logits(model, prompt + tokens)[len(prompt) - 1 : -1]  # [count, V]
        assert ours.shape == expected.shape
        worst = max(worst, float((ours - expected).abs().max()))
        equal &= tokens == expected.argmax(dim=1).tolist()
        seen |= set(tokens)
    assert_idle(engine)
    return worst, equal, len(seen)


@pytest.mark.parametrize("written", ["v4", "v5"])
@every_variant
def test_logits_and_tokens_are_hugging_faces(variant: str, written: str, tmp_path: Path) -> None:
    kind, fields = VARIANTS[variant]
    model = make_model(tmp_path, kind, **fields)
    if written == "v4":
        write_v4_config(tmp_path)
    prompts = prompts_for(Oracle(tmp_path, model))
    worst, equal, different = worst_difference(make_engine(tmp_path), model, prompts, 40)
    assert worst < LOGITS_TOLERANCE and equal
    assert different > 8, "greedy text that goes in circles proves little"


@every_variant
def test_hugging_face_itself_reads_the_rewritten_v4_config_the_same_way(variant: str, tmp_path: Path) -> None:
    """The oracle of the oracle: our v4 writing is one that transformers understands."""
    kind, fields = VARIANTS[variant]
    model = make_model(tmp_path, kind, **fields)
    write_v4_config(tmp_path)
    assert "rope_parameters" not in json.loads((tmp_path / "config.json").read_text())
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = list(range(2, 60))
    torch.testing.assert_close(hf_logits(again, ids), hf_logits(model, ids))


@pytest.mark.parametrize("chosen", SETTINGS)
@every_variant
def test_under_every_kind_of_setting(variant: str, chosen: str) -> None:
    if SETTINGS[chosen].get("kernels") == "cpu" and cpu.load(torch.float32) is None:
        pytest.skip("no C++ compiler here")
    oracle = made(variant)
    engine = make_engine(oracle.folder, **SETTINGS[chosen])
    worst, equal, _ = worst_difference(engine, oracle.model, prompts_for(oracle), 25)
    assert worst < LOGITS_TOLERANCE and equal
    assert (engine.scheduler.num_preemptions > 0) == (chosen == "preemption")


@every_variant
def test_with_prefixes_found_in_the_cache(variant: str) -> None:
    """The same prompt twice, a third that parts from it, in one step and again later; in chunks, too."""
    oracle = made(variant)
    first, other, _ = prompts_for(oracle)
    prompts = [first, first, [*first[:22], *other, 5, 6], first]
    for chosen in ({"page_size": 4}, {"page_size": 3, "max_num_batched_tokens": 9, "kernels": "torch"}):
        engine = make_engine(oracle.folder, prefix_cache="radix", max_num_seqs=2, **chosen)
        worst, equal, _ = worst_difference(engine, oracle.model, prompts, 12)
        assert worst < LOGITS_TOLERANCE and equal
        assert engine.scheduler.cache.stats.hit_tokens > 3 * 20


@every_kind
@given(scenario=scenarios())
@settings(max_examples=examples(4), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_settings_give_the_tokens_that_each_request_gets_alone(kind: str, scenario: Any) -> None:
    alone = at_home(kind)
    workload, chosen = scenario
    engine = make_engine(alone.oracle.folder, **chosen)
    run = run_jobs(engine, workload)
    for index, job in enumerate(workload):
        assert alone.agree(job, run.tokens(index)), f"{job} under {chosen}: {run.tokens(index)}"
    assert_idle(engine)


@functools.cache
def at_home(kind: str) -> Alone:
    window = {} if kind in ("llama", "nanochat", "opt") else {"sliding_window": 7}
    switched_on = {"use_sliding_window": True, "max_window_layers": 1} if kind.startswith("qwen") else {}
    oracle = made(KINDS[kind], vocab_size=TEXT_VOCAB, **window, **switched_on)
    return Alone(oracle, page_size=16, max_model_len=MAX_MODEL_LEN)


@every_kind
@pytest.mark.parametrize("kernels", ["torch", "auto"])
def test_a_bfloat16_model_stays_near_float32(kind: str, kernels: str, tmp_path: Path) -> None:
    """No further from float32 than Hugging Face's own bfloat16 model is."""
    make_model(tmp_path, kind, dtype=torch.bfloat16)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    full = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    engine, logits = make_engine(tmp_path, dtype="bfloat16", kernels=kernels), []
    prompt = prompts_for(Oracle(tmp_path, full))[0]
    with listen("sampler.token", lambda event: logits.append(event.logits[0].clone())):
        tokens = run_jobs(engine, [Job(tuple(prompt), 24)]).tokens(0)
    ours, exact = torch.stack(logits), hf_logits(full, prompt + tokens)[len(prompt) - 1 : -1]
    theirs = hf_logits(half, prompt + tokens)[len(prompt) - 1 : -1]
    assert ours.isfinite().all()
    assert 0 < (ours - exact).abs().mean() < 1.5 * (theirs - exact).abs().mean()


@every_kind
def test_what_a_debugger_is_told_to_watch_is_there_in_every_model(kind: str) -> None:
    """The catalogue's expressions are in the caller's names; a model with a forward pass of its own keeps to them."""
    seen, wrong = set(), []

    def look(event: Any) -> None:
        frame = sys._getframe(1)
        while frame.f_code.co_filename in (minillm.probe.__file__, __file__):
            assert frame.f_back
            frame = frame.f_back
        names, info = {**frame.f_globals, **frame.f_locals}, catalogue()[event.name]
        seen.add(event.name)
        for expression in (*info.watch, *info.must):
            value = eval(expression, names)
            if expression in info.must and not value:
                wrong.append((event.name, expression))

    with listen(["model.embed", "model.norm", "layer.*", "kv.store", "attention.attend"], look):
        run_jobs(make_engine(made(KINDS[kind]).folder), [Job((5, 6, 7), 3)])
    assert seen == {"model.embed", "model.norm", "layer.attention", "layer.mlp", "kv.store", "attention.attend"}
    assert not wrong


@every_variant
def test_the_memory_plan_counts_every_weight(variant: str) -> None:
    oracle = made(variant)
    parameters = {id(p): p.nbytes for p in oracle.model.parameters()}
    plan = make_engine(oracle.folder, kernels="torch", pack_weights=False).memory
    assert plan.weights == sum(parameters.values())


def test_weights_under_hugging_faces_older_names(tmp_path: Path) -> None:
    """OPT as it lies on the Hub: saved without its head, so without "model." before every name."""
    model = make_model(tmp_path, "opt")
    path = tmp_path / "model.safetensors"
    tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}
    assert "decoder.embed_tokens.weight" in tensors
    save_file(tensors, path)
    prompts = prompts_for(Oracle(tmp_path, model))
    worst, equal, _ = worst_difference(make_engine(tmp_path), model, prompts, 8)
    assert worst < LOGITS_TOLERANCE and equal


def test_a_fused_tensor_that_is_missing_or_of_another_shape_is_named(tmp_path: Path) -> None:
    make_model(tmp_path, "phi3")
    path, name = tmp_path / "model.safetensors", "model.layers.1.self_attn.qkv_proj.weight"
    tensors = load_file(path)
    save_file({**tensors, name: tensors[name][1:].clone()}, path)
    with pytest.raises(ValueError, match=r"qkv_proj.weight' is \[79, 48\], the config asks for \[80, 48\]"):
        make_engine(tmp_path)
    del tensors[name]
    save_file(tensors, path)
    with pytest.raises(ValueError, match=f"missing from the checkpoint:\n    {name}$"):
        make_engine(tmp_path)


if __name__ == "__main__":
    print(f"{'model':36} {'worst logit difference':>22}  tokens equal")
    for name in VARIANTS:
        oracle = made(name)
        results = [
            worst_difference(make_engine(oracle.folder, **chosen), oracle.model, prompts_for(oracle), 40)
            for chosen in ({}, SETTINGS["torch kernels"], SETTINGS["chunks of 5, pages of 3"])
        ]
        print(f"{name:36} {max(result[0] for result in results):22.1e}  {all(result[1] for result in results)}")
