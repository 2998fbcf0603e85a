"""The memory plan: what it counts is what is really held, and too little memory is refused in time, with numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from engine.live_bytes import most_held
from tiny import Oracle, make_model
from workload import Job, make_engine, run_jobs

from minillm.config import EngineConfig
from minillm.engine.engine import Engine
from minillm.probe import listen
from minillm.sampling.sampler import SamplingBatch, sample, sample_in_parts
from minillm.setup import Setup
from minillm.worker.device import DeviceMemory, room_for, show_bytes
from minillm.worker.estimate import activation_bytes, table_bytes, weight_bytes
from minillm.worker.memory import most_that_fits, plan_memory, refuse_the_impossible
from minillm.worker.trial import Measured, Trial, largest_steps, run_largest

PLAIN = {"kernels": "torch", "attention_backend": "reference", "pack_weights": False}
GIB = 2**30


def trial_of(engine: Engine) -> Trial:
    """A trial with what the engine has."""
    worker = engine.core.executor.worker
    return Trial(engine.setup, worker.platform, worker.model, DeviceMemory.look(engine.device))


# --- the formula, beside what torch books

SHAPES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {  # kind, its sizes, settings: one part each is large
    "the feed-forward network": (
        "llama", {"intermediate_size": 800}, {"max_num_batched_tokens": 1024, "max_num_seqs": 4}),
    "heads": ("llama", {"num_attention_heads": 24}, {"max_num_batched_tokens": 1024, "max_num_seqs": 4}),
    "the stream": ("llama", {"hidden_size": 240}, {"max_num_batched_tokens": 1024, "max_num_seqs": 4}),
    "gathered contexts": ("llama", {}, {"max_num_batched_tokens": 256, "max_num_seqs": 256}),
    "logits": ("llama", {"vocab_size": 12_000}, {"max_num_batched_tokens": 64, "max_num_seqs": 64}),
    "a prompt's logits": ("llama", {"vocab_size": 12_000}, {"max_num_batched_tokens": 256, "max_num_seqs": 2}),
    "windows": ("gemma3_text", {}, {"max_num_batched_tokens": 512, "max_num_seqs": 16}),
    "experts": ("qwen3_moe", {"moe_intermediate_size": 300}, {"max_num_batched_tokens": 512, "max_num_seqs": 2}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_largest_step_holds_what_the_formula_says(tmp_path: Path, shape: str, dtype: str) -> None:
    """No more, and not much less: what is counted for nothing is missing in the cache."""
    kind, sizes, settings = SHAPES[shape]
    make_model(tmp_path, kind, **sizes)
    engine = make_engine(tmp_path, dtype=dtype, **PLAIN, **settings)
    trial = trial_of(engine)
    held = most_held(lambda: run_largest(trial.make_runner()))
    planned = activation_bytes(engine.setup, engine.model, gathers=True)
    planned -= table_bytes(engine.setup)  # made before
    assert held <= planned, f"{held / 2**20:.2f} MiB held, {planned / 2**20:.2f} MiB planned"
    assert held > planned * (0.45 if dtype == "float32" else 0.3)


def test_vocabularies_are_drawn_from_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a thousand rows of logits do not take ten times their own memory."""
    for module in ("sampling.sampler", "worker.estimate"):
        monkeypatch.setattr(f"minillm.{module}.PART", 40_000)
    monkeypatch.setattr("minillm.worker.estimate.MOST_LOGITS", 40_000)
    monkeypatch.setattr("minillm.sampling.logprobs.MOST_LOGITS", 40_000)
    make_model(tmp_path, "llama", vocab_size=12_000)
    engine = make_engine(tmp_path, **PLAIN, max_num_batched_tokens=64, max_num_seqs=64)
    trial = trial_of(engine)
    held = most_held(lambda: run_largest(trial.make_runner()))
    planned = activation_bytes(engine.setup, engine.model, gathers=True)
    assert 0.5 * planned < held <= planned < 30 * 64 * 12_000


def test_serving_holds_no_more_than_the_plan(tmp_path: Path) -> None:
    """Requests that ask for everything, long prompts in chunks, shared prefixes, preemptions: real steps, watched."""
    make_model(tmp_path, "llama", vocab_size=6000)
    settings = {"max_num_batched_tokens": 96, "max_num_seqs": 48, "num_pages": 40}
    engine = make_engine(tmp_path, **PLAIN, **settings)
    jobs = []
    for i in range(80):
        prompt = tuple(range(10, 10 + 5 + i * 37 % 180))
        asks: dict[str, Any] = {"top_k": 50, "top_p": 0.9, "min_p": 0.01, "temperature": 1.0, "seed": i}
        asks |= {"logprobs": 5, "repetition": 1.2, "frequency": 0.1, "bias": ((7, 1.0),), "min_tokens": 2}
        jobs.append(Job(prompt, 6 + i % 9, arrives=i // 8, **(asks if i % 9 else {})))
    held = most_held(lambda: run_jobs(engine, jobs))
    assert engine.scheduler.num_preemptions > 0
    assert held <= engine.memory.activations


def test_parts_draw_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    R, V = 23, 50
    logits = torch.randn(R, V)
    drawn = torch.tensor([i for i in range(R) if i % 4])
    D = len(drawn)
    settings = SamplingBatch(
        torch.rand(D) + 0.5, torch.randint(1, V, (D,)), torch.rand(D), torch.arange(D), torch.arange(D) * 3, True,
        drawn, torch.rand(D) / 10,
    )  # fmt: skip
    whole = sample(logits.clone(), settings)
    monkeypatch.setattr("minillm.sampling.sampler.PART", 3 * V)
    assert torch.equal(sample_in_parts(logits.clone(), settings), whole)
    every = SamplingBatch(*(getattr(settings, name) for name in ("temperature", "top_k", "top_p", "seeds")),
                          settings.positions, True)  # fmt: skip
    assert torch.equal(sample_in_parts(logits[:D].clone(), every), sample(logits[:D].clone(), every))


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_num_seqs": 1}, {"max_num_batched_tokens": 7}, {"max_num_batched_tokens": 3, "max_num_seqs": 3},
     {"page_size": "max_model_len"}, {"page_size": 3}, {"reuse_kv": False}, {"max_model_len": 1},
     {"max_model_len": 2, "max_num_seqs": 2, "max_num_batched_tokens": 2}, {"kernels": "torch"}],
)  # fmt: skip
def test_a_trial_runs_with_any_settings_and_leaves_nothing(oracle: Oracle, settings: dict[str, Any]) -> None:
    engine = make_engine(oracle.folder, **settings)
    jobs = [Job((5, 6, 7, 8), 5)] if engine.setup.max_model_len == 256 else []
    before = run_jobs(engine, jobs)
    trial_of(engine).warm_up(engine.runner.backend) if engine.device.type == "cuda" else run_largest(
        trial_of(engine).make_runner(engine.runner.backend)
    )
    after = run_jobs(engine, jobs)
    assert all(before.tokens(i) == after.tokens(i) for i in range(len(jobs)))


def test_the_largest_steps_are_as_large_as_steps_get(oracle: Oracle) -> None:
    sizes = {"max_model_len": 200, "max_num_seqs": 6, "max_num_batched_tokens": 100}
    even, deep = largest_steps(Setup.of(EngineConfig(model=str(oracle.folder), **sizes)), 50, 16)
    assert even.num_tokens == deep.num_tokens == 100 and len(even.rows) == len(deep.rows) == 6
    assert [row.count for row in even.rows] == [17, 17, 17, 17, 16, 16]
    assert [(row.start, row.count) for row in deep.rows] == [(199, 1), *[(0, 1)] * 4, (105, 95)]
    assert all(row.joins and row.joins.params.penalises for row in even.rows)


# --- pages


def memory_of(kind: str, total: int, free: int | None = None) -> DeviceMemory:
    return DeviceMemory(torch.device(kind), total, total if free is None else free)


def plan(engine: Engine, memory: DeviceMemory, measured: Measured | None = None, **settings: Any) -> Any:
    setup = setup_with(engine, **settings)
    refuse_the_impossible(setup, engine.model, memory)
    measure = None if measured is None else lambda: measured
    return plan_memory(setup, engine.model, memory, measure)


def setup_with(engine: Engine, **settings: Any) -> Setup:
    """What other settings mean for the engine's model, on the CPU."""
    config = EngineConfig(model=str(engine.setup.folder), max_model_len=256, device="cpu", **settings)
    return Setup.of(config, engine.model_config, engine.setup.folder)


@pytest.fixture(scope="module")
def engine(oracle: Oracle) -> Engine:
    return make_engine(oracle.folder, **PLAIN)


def test_on_a_gpu_the_share_is_of_all_its_memory(engine: Engine) -> None:
    """Others hold 30 GiB; half of the whole is still half of the whole, and all that is measured is in it."""
    weights = weight_bytes(engine.model)
    measured = Measured(in_torch=weights + 3 * GIB, outside=GIB, graphs=2 * GIB)
    got = plan(engine, memory_of("cuda", 80 * GIB, 50 * GIB), measured, gpu_memory_utilization=0.5)
    assert got.limit == 40 * GIB and (got.activations, got.outside, got.graphs) == (3 * GIB, GIB, 2 * GIB)
    assert got.num_pages == (34 * GIB - weights) // got.page_bytes
    assert got.limit - got.page_bytes < got.total <= got.limit
    assert got.how == "measured in a trial step" and "gpu_memory_utilization=0.5" in got.why


def test_a_gpu_whose_share_is_not_free_is_refused_before_anything_is_read(engine: Engine) -> None:
    says = r"=0.9 means 72.00 GiB of the 80.00 GiB that cuda has, but only 50.00 GiB are free; .* to at most 0.62"
    with pytest.raises(ValueError, match=says):
        plan(engine, memory_of("cuda", 80 * GIB, 50 * GIB))


@pytest.mark.parametrize("asked", [{"num_pages": 9}, {"max_cached_tokens": 144}, {"kv_cache_memory_bytes": 9 * 12288}])
def test_who_says_how_large_the_cache_is_needs_only_that(engine: Engine, asked: dict[str, int]) -> None:
    got = plan(engine, memory_of("cuda", 80 * GIB, 5 * GIB), **asked)
    assert got.num_pages == 9 and got.limit == 5 * GIB and got.how == "by formula"


def test_weights_that_can_never_fit_are_refused_before_they_are_read(oracle: Oracle) -> None:
    seen = []
    with listen("weights.tensor", seen.append), pytest.raises(ValueError, match=r"the weights take .* smaller model"):
        make_engine(oracle.folder, gpu_memory_utilization=1e-9)
    assert not seen


def test_the_plan_comes_after_the_weights_and_before_the_cache(oracle: Oracle) -> None:
    names: list[str] = []
    with listen(["model.built", "weights.tensor", "memory.plan", "kv.create"], lambda event: names.append(event.name)):
        make_engine(oracle.folder)
    assert list(dict.fromkeys(names)) == ["model.built", "weights.tensor", "memory.plan", "kv.create"]


def test_a_step_that_leaves_too_little_says_what_to_lower(engine: Engine) -> None:
    weights = weight_bytes(engine.model)
    with pytest.raises(ValueError) as caught:
        plan(engine, memory_of("cuda", GIB), Measured(weights + GIB * 9 // 10, 2**27, 2**26))
    for words in ("max_model_len=256", "largest step 0.90 GiB", "CUDA beside torch 0.12 GiB", "CUDA graphs 64.0 MiB",
                  "leaves 0.0 KiB", "lower max_model_len, max_num_batched_tokens or max_num_seqs"):  # fmt: skip
        assert words in str(caught.value)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore"),
                                   MemoryError("Unable to allocate 7 GiB")])  # fmt: skip
def test_running_out_of_memory_is_one_error_with_numbers_and_advice(error: Exception) -> None:
    says = (
        r"out of memory while making the KV cache: 2.00 GiB of 8.00 GiB were free on cuda before; lower it \(.*allocate"
    )
    with (
        pytest.raises(ValueError, match=says),
        room_for("making the KV cache", memory_of("cuda", 8 * GIB, 2 * GIB), "lower it"),
    ):
        raise error


def test_on_a_cpu_the_plan_keeps_to_its_share_of_what_is_free(engine: Engine) -> None:
    got = most_that_fits(setup_with(engine, gpu_memory_utilization=0.5), engine.model, memory_of("cpu", 3 * GIB))
    assert got.limit == 3 * GIB // 2 and got.total <= got.limit
    assert show_bytes(got.limit) == "1.50 GiB"
