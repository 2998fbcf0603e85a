"""The same engine on a GPU: what runs on a CPU runs there, with the same tokens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from paged import make_batch, make_cache, make_shape, shuffled_pages
from parity import greedy_with_logits, random_prompt
from tiny import TEXT_VOCAB, hf_greedy, make_llama, make_model
from torch import Tensor
from workload import Job, assert_idle, make_engine, run_jobs

from minillm import LLM, SamplingParams

pytestmark = pytest.mark.gpu

PLAIN = {"kernels": "torch", "attention_backend": "reference"}
# Kinds of layers: heads normalised, windows, biases, a part of a head turned, no positions in attention, experts.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, heads of 128": ("llama", {"head_dim": 128, "num_attention_heads": 8}),
    "qwen3": ("qwen3", {}),
    "gemma3": ("gemma3_text", {}),
    "qwen2": ("qwen2", {}),
    "phi3": ("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}}),
    "opt": ("opt", {}),
    "qwen3_moe": ("qwen3_moe", {}),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "chunks of 17, pages of 3": {"max_num_batched_tokens": 17, "page_size": 3},
    "one page a request": {"page_size": "max_model_len", "max_model_len": 160, "num_pages": 5},
    "preemption": {"page_size": 4, "num_pages": 44, "max_num_batched_tokens": 64, "max_model_len": 160},
}
LENGTHS = (90, 1, 33, 20, 64)


def prompts() -> list[list[int]]:
    return [random_prompt(length, length, TEXT_VOCAB) for length in LENGTHS]


def test_auto_takes_triton_on_a_gpu(tmp_path: Path) -> None:
    make_llama(tmp_path, vocab_size=TEXT_VOCAB)
    engine = make_engine(tmp_path, device="cuda")
    assert (engine.runner.backend.name, engine.model.model.norm.kernels.name) == ("triton", "triton")
    assert engine.model.lm_head.format.name == "dense (few rows: triton)"


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_those_of_the_reference_in_float32(tmp_path: Path, kind: str) -> None:
    """With chunks, pages of odd sizes, requests that must leave and come back, and prefixes from the cache."""
    name, overrides = KINDS[kind]
    make_model(tmp_path, name, vocab_size=TEXT_VOCAB, **overrides)
    common = {"device": "cuda", "dtype": "float32"}
    jobs = [Job(tuple(prompt), 48) for prompt in prompts()]
    engine = make_engine(tmp_path, **common, **PLAIN, num_pages=128)
    expected = run_jobs(engine, jobs)
    assert engine.runner.backend.name == "reference"
    for setting, settings in SETTINGS.items():
        engine = make_engine(tmp_path, **common, **{"num_pages": 128, **settings})
        assert engine.runner.backend.name == "triton"
        for turn in ("first", "from cached prefixes"):
            run = run_jobs(engine, jobs)
            for i in range(len(jobs)):
                assert run.tokens(i) == expected.tokens(i), f"{setting}, prompt {i}, {turn}"
        assert setting != "preemption" or engine.scheduler.num_preemptions > 0
        assert setting != "default" or any(output.num_cached_tokens for output in run.finals.values())
        assert_idle(engine)


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_and_overlap_change_nothing(tmp_path: Path, kind: str) -> None:
    """Batches of 1 to 40 rows, greedy and seeded, some that ask for more than a graph gives, some that stop early."""
    name, overrides = KINDS[kind]
    make_model(tmp_path, name, vocab_size=TEXT_VOCAB, **overrides)
    jobs = []
    for i in range(40):
        job = Job(tuple(random_prompt(3 + 5 * (i % 7), i, TEXT_VOCAB)), 6 + i % 23, arrives=i // 4)
        more: dict[str, Any] = {}
        if i % 3 == 1:
            more = {"temperature": 1.0, "seed": i}
        if i % 5 == 2:
            more |= {"stop": (7, 9, 30), "repetition": 1.3}
        if i % 7 == 3:
            more |= {"logprobs": 2, "top_k": 5 if more.get("temperature") else 0}
        jobs.append(replace(job, **more))
    common = {"device": "cuda", "dtype": "float32", "num_pages": 400}
    plain = run_jobs(make_engine(tmp_path, **common, enforce_eager=True, async_scheduling=False), jobs)
    for eager, ahead in ((True, True), (False, False), (False, True)):
        engine = make_engine(tmp_path, **common, enforce_eager=eager, async_scheduling=ahead)
        assert (engine.runner.graphs is None) == (eager or "moe" in kind)
        run = run_jobs(engine, jobs)
        for i in range(len(jobs)):
            assert run.tokens(i) == plain.tokens(i), f"eager={eager}, ahead={ahead}: {jobs[i]}"
        assert_idle(engine)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_triton_is_as_near_to_float32_as_torch_is(tmp_path: Path, kind: str) -> None:
    """On average over three models: which of the two rounds luckily for one prompt is a matter of chance."""
    name, overrides = KINDS[kind]

    def first_logits(folder: Path, dtype: str, **settings: Any) -> Tensor:
        engine = make_engine(folder, device="cuda", dtype=dtype, num_pages=128, **settings)
        return torch.stack([logits[0] for _, logits in greedy_with_logits(engine, prompts(), 1)])

    torchs, ours = [], []
    for seed in range(3):
        folder = tmp_path / str(seed)
        make_model(folder, name, seed=seed, dtype=torch.bfloat16, vocab_size=TEXT_VOCAB, **overrides)
        exact = first_logits(folder, "float32", **PLAIN)
        torchs.append((first_logits(folder, "bfloat16", **PLAIN) - exact).norm(dim=1))
        ours.append((first_logits(folder, "bfloat16") - exact).norm(dim=1))
    assert torch.cat(ours).mean() < 1.3 * torch.cat(torchs).mean()
    assert torch.cat(ours).max() < 3 * torch.cat(torchs).max()


@pytest.mark.parametrize(
    "settings", [{}, {"num_pages": 24, "max_num_batched_tokens": 17}, {"page_size": "max_model_len"}]
)
def test_greedy_tokens_on_a_gpu_equal_hugging_face(tmp_path: Path, settings: dict) -> None:
    oracle = make_llama(tmp_path)
    prompts = [[5, 6, 7, 8, 9] * 4, [10, 11], list(range(20, 53))]
    llm = LLM(str(tmp_path), device="cuda", dtype="float32", debug_checks=True, **{"num_pages": 64, **settings})
    params = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    assert [output.outputs[0].token_ids for output in outputs] == [hf_greedy(oracle, ids, 32) for ids in prompts]


def test_the_bundled_model_answers_on_a_gpu_in_its_own_dtype() -> None:
    llm = LLM(device="cuda", gpu_memory_utilization=0.1)
    assert str(llm.engine.dtype) == "torch.bfloat16"
    (output,) = llm.chat(
        [{"role": "user", "content": "What is a KV cache?"}], SamplingParams(temperature=0, max_tokens=64)
    )
    assert output.outputs[0].text.startswith("A KV cache stores the keys and values of every token computed so far")
    assert output.outputs[0].finish_reason == "stop"


def test_seeds_draw_the_same_tokens_on_a_gpu_as_on_a_cpu(tmp_path: Path) -> None:
    make_llama(tmp_path)
    params = SamplingParams(temperature=0.8, top_p=0.9, top_k=20, seed=4, max_tokens=24, ignore_eos=True)
    texts = [
        LLM(str(tmp_path), device=device, dtype="float32", num_pages=64).generate([[5, 6, 7]], params, use_tqdm=False)
        for device in ("cpu", "cuda")
    ]
    assert texts[0][0].outputs[0].token_ids == texts[1][0].outputs[0].token_ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("H", "Hkv", "D"), [(16, 8, 128), (32, 8, 128), (14, 2, 64), (8, 8, 96), (4, 1, 256)])
def test_attention_of_real_sizes(dtype: torch.dtype, H: int, Hkv: int, D: int) -> None:
    """Long contexts in many splits, many requests, prompts over pages: against dense attention in float64."""
    from minillm.attention.triton import TritonAttention

    device, S, windows = torch.device("cuda"), 16, (None, 100)
    lengths = [(9000, 1), (1, 1), (333, 1), (64, 1), (700, 700), (1500, 300), (40, 2)]
    pages = [-(-context // S) for context, _ in lengths]
    shape = make_shape(H, Hkv, D, windows, dtype=dtype, device="cuda")
    cache = make_cache(shape, sum(pages), S)
    cache.tensor.normal_()
    table = shuffled_pages(cache, lengths, seed=1)
    batch = make_batch(cache, lengths, table, TritonAttention(shape))
    T = batch.num_tokens
    q = torch.randn(T, H, D, dtype=dtype, device=device)
    batch.plan = batch.backend.prepare(batch)
    for layer, window in enumerate(windows):
        got, row = batch.backend.attend(layer, q, batch).view(T, H, D), 0
        for pages_of, count_of, (context, count) in zip(table, pages, lengths):
            own = pages_of[:count_of]
            kv = cache[layer].tensor[own].reshape(-1, 2, Hkv, D)[:context].double()
            kv = kv.repeat_interleave(H // Hkv, dim=2)
            scores = torch.einsum("qhd,chd->hqc", q[row : row + count].double(), kv[:, 0]) * D**-0.5
            ends = torch.arange(context - count + 1, context + 1, device=device)[:, None]
            keys = torch.arange(context, device=device)
            hidden = (keys >= ends) | (keys < ends - (window or context))
            expected = torch.einsum("hqc,chd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), kv[:, 1])
            tolerance = 1e-5 if dtype == torch.float32 else 1e-2
            torch.testing.assert_close(got[row : row + count].double(), expected, atol=tolerance, rtol=tolerance)
            row += count
