"""Decode steps that are recorded and replayed, on a CPU: the same tokens, padding that does nothing, and what is said
when they are not to be had or nobody can see into them."""

import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Oracle, make_model
from tiny_moe import make_moe
from workload import Job, assert_idle, make_engine, run_jobs

from minillm.debug.blind import blind_names, warn_the_blind
from minillm.probe import Event, listen
from minillm.worker.graphs import SIZES, capture_sizes, choose_size, fill_rows

PLAIN = {"kernels": "torch", "attention_backend": "reference"}
KINDS = {"default": {}, "plain torch": PLAIN, "plain weights": {**PLAIN, "pack_weights": False}}
SMALL: dict[str, Any] = {"num_pages": 64, "max_model_len": 96, "max_num_seqs": 8}


@given(most=st.integers(1, 600), count=st.integers(1, 600))
def test_sizes_hold_every_batch_and_waste_less_than_half(most: int, count: int) -> None:
    sizes = capture_sizes(most)
    assert sizes == sorted(set(sizes)) and sizes[-1] == min(most, SIZES[-1])
    if count <= sizes[-1]:
        size = choose_size(sizes, count)
        assert size in sizes and size >= count and not any(count <= other < size for other in sizes)
        assert size < 2 * count
    else:
        with pytest.raises(ValueError, match=f"no step of {count} rows was recorded"):
            choose_size(sizes, count)


def test_rows_are_filled_up_with_nobody() -> None:
    rows, lengths = np.full((4, 8), 77), np.full(9, 77, dtype=np.int32)
    seats, positions, slots = np.array([3, 1]), np.array([10, 0]), np.array([170, 32])
    fill_rows(rows, lengths, seats, positions, slots, np.array([5, 6]), 4, 9)
    assert rows[:, :4].tolist() == [[3, 1, 9, 9], [10, 0, 0, 0], [170, 32, -1, -1], [5, 6, 0, 0]]
    assert lengths[:4].tolist() == [11, 1, 0, 0]
    assert (rows[:, 4:] == 77).all() and (lengths[4:] == 77).all()


def jobs() -> Sequence[Job]:
    """Batches of one to six, greedy and drawing, some that ask for more than a recorded step gives."""
    return [
        Job(tuple(range(5, 25)), 24),
        Job((7,), 20, arrives=2, temperature=1.0, seed=4),
        Job(tuple(range(90, 60, -1)), 30, arrives=3),
        Job((11, 4, 99, 33, 33), 16, arrives=6, temperature=0.7, seed=9, top_k=5),
        Job((8, 8, 9), 18, arrives=8, repetition=1.3, logprobs=2),
        Job((60, 61), 12, arrives=9, temperature=2.0, seed=1),
    ]


@pytest.mark.parametrize("ahead", [False, True], ids=["plain", "overlap"])
@pytest.mark.parametrize("kind", KINDS)
def test_replayed_steps_give_the_same_tokens(oracle: Oracle, kind: str, ahead: bool) -> None:
    settings = {**SMALL, **KINDS[kind], "async_scheduling": ahead}
    eager = run_jobs(make_engine(oracle.folder, **settings, enforce_eager=True), jobs())
    engine = make_engine(oracle.folder, **settings, enforce_eager=False)
    assert engine.worker.eager is None and list(engine.runner.graphs.recorded) == [8, 4, 2, 1]
    sizes = set()
    with listen("graph.replay", lambda event: sizes.add((event.count, event.size))):
        run = run_jobs(engine, jobs())
    assert {(1, 1), (3, 4), (5, 8)} <= sizes
    for index, job in enumerate(jobs()):
        assert run.tokens(index) == eager.tokens(index), job
    assert_idle(engine)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "qwen2", "opt"])
def test_other_architectures(tmp_path: Path, name: str) -> None:
    """Heads normalised, windows, biases, no positions in attention."""
    make_model(tmp_path, name, vocab_size=258)
    for kind in ("default", "plain torch"):
        settings = {**SMALL, **KINDS[kind]}
        eager = run_jobs(make_engine(tmp_path, **settings, enforce_eager=True), jobs())
        engine = make_engine(tmp_path, **settings, enforce_eager=False)
        assert engine.worker.eager is None
        run = run_jobs(engine, jobs())
        assert all(run.tokens(index) == eager.tokens(index) for index in range(len(jobs()))), kind


@pytest.mark.parametrize("kind", ["default", "plain torch"])
def test_padding_writes_nowhere(oracle: Oracle, kind: str) -> None:
    """Steps of three rows, recorded for four: of the cache only the slots of the three change."""
    engine = make_engine(oracle.folder, **SMALL, **KINDS[kind], enforce_eager=False)
    for job in range(3):
        engine.add_request([5 + job, 6, 7], _params(12))
    engine.step()
    graphs, cache = engine.runner.graphs, engine.runner.kv_cache
    for _ in range(6):
        before = cache.tensor.clone().flatten(1, 2)  # [L, P * S, 2, Hkv, D]
        wanted: list[int] = []
        with listen("graph.replay", lambda event, wanted=wanted: wanted.extend(event.graphs.rows[2, : event.count])):
            engine.step()
        changed = (cache.tensor.flatten(1, 2) != before).flatten(2).any(dim=2).any(dim=0).nonzero().flatten().tolist()
        assert changed == sorted(map(int, wanted)) and len(changed) == 3
        assert graphs.rows[0, 3] == graphs.nobody


def test_larger_batches_than_the_largest_size(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are computed from Python, in between steps that are replayed."""
    from minillm.attention import gather

    monkeypatch.setattr(gather, "FIXED_GATHER", 2 * 96 * 2 * 2 * 16 * 4)
    settings = {**SMALL, **PLAIN}
    engine = make_engine(oracle.folder, **settings, enforce_eager=False)
    a_row = 96 * engine.runner.kv_cache[0].slots[0].nbytes
    assert engine.runner.graphs.sizes[-1] == gather.FIXED_GATHER // a_row < 5
    eager = run_jobs(make_engine(oracle.folder, **settings, enforce_eager=True), jobs())
    run = run_jobs(engine, jobs())
    assert all(run.tokens(index) == eager.tokens(index) for index in range(len(jobs())))


def test_nothing_is_written_while_recording(oracle: Oracle) -> None:
    for kind in ("default", "plain torch"):
        engine = make_engine(oracle.folder, **SMALL, **KINDS[kind], enforce_eager=False)
        assert not engine.runner.kv_cache.tensor.any()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "on a cpu little is saved"),
        ({"enforce_eager": True}, "asked for"),
        ({"enforce_eager": False}, None),
    ],
)
def test_why_not_is_said(oracle: Oracle, settings: dict[str, Any], why: str | None) -> None:
    said = []
    with listen("graph.choose", lambda event: said.append(event.eager)):
        engine = make_engine(oracle.folder, **SMALL, **settings)
    assert said == [engine.worker.eager]
    assert engine.worker.eager is None if why is None else engine.worker.eager.startswith(why)
    assert (engine.runner.graphs is None) == (why is not None)


def test_a_mixture_of_experts_says_why_not(tmp_path: Path) -> None:
    make_moe(tmp_path, num_hidden_layers=1)
    engine = make_engine(tmp_path, **SMALL, enforce_eager=False)
    assert engine.worker.eager.startswith("a mixture of experts") and engine.runner.graphs is None


def test_who_listens_in_vain_is_told_once(oracle: Oracle) -> None:
    """A probe of the forward pass fires in prompts and never in replays; said when it is armed, and only once."""
    warn_the_blind()
    engine = make_engine(oracle.folder, **SMALL, enforce_eager=False)
    seen: list[Event] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with listen(["kv.allocate", "scheduler.*", "*"], lambda event: None):
            assert not told
        with listen("layer.*", seen.append), listen("attention.attend", seen.append):
            assert len(told) == 1
            said = str(told[0].message)
            assert said.startswith("layer.attention, layer.mlp: cannot fire in decode steps that are replayed")
            assert "enforce_eager=True" in said and told[0].filename == __file__
            engine.add_request([5, 6, 7], _params(9))
            engine.step()
            prompts = len(seen)
            assert prompts
            while engine.has_requests:
                engine.step()
            assert len(seen) == prompts
    assert blind_names(("kv.*", "sampler.*")) == ["kv.store", "kv.gather", "sampler.logits", "sampler.choose"]
    del engine


def test_who_listened_before_is_told_too_and_an_eager_engine_tells_nothing(oracle: Oracle) -> None:
    warn_the_blind()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with listen("model.embed", lambda event: None):
            make_engine(oracle.folder, **SMALL)
            assert not told
            engine = make_engine(oracle.folder, **SMALL, enforce_eager=False)
            assert len(told) == 1 and str(told[0].message).startswith("model.embed: cannot fire")
    del engine


def test_recording_fires_no_probe_of_the_model(oracle: Oracle) -> None:
    seen = []
    with listen("*", lambda event: seen.append(event.name)):
        engine = make_engine(oracle.folder, **SMALL, enforce_eager=False)
    assert seen.count("graph.record") == 4 and "layer.attention" not in seen
    assert engine.runner.graphs.seconds > 0


def test_recording_needs_no_compiler() -> None:
    """torch's own compiler takes seconds to import."""
    code = (
        "import sys; from minillm import LLM\n"
        "LLM('nano-llama', num_pages=32, max_num_seqs=2, max_model_len=64, enforce_eager=False, kernels='torch')\n"
        "assert 'torch._dynamo' not in sys.modules and 'triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def _params(tokens: int) -> Any:
    from minillm import SamplingParams

    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)


def test_rows_are_sampled_as_without_a_recording() -> None:
    """Greedy rows and drawing rows side by side, against the engine's own `sample` for each kind."""
    from minillm.sampling.sampler import SamplingBatch, sample, sample_rows

    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(40, 70, generator=generator)
    heat = torch.tensor([0.0, 0.3, 1.0, 2.0] * 10)
    seeds, positions = torch.randint(2**62, (40,), generator=generator), torch.arange(40)
    last_tokens, seats, drawing = torch.zeros(90, dtype=torch.int64), torch.randperm(90)[:40], heat > 0
    got = sample_rows(logits.clone(), heat, seeds, positions, last_tokens, seats)
    assert torch.equal(last_tokens[seats], got) and len(last_tokens.nonzero()) <= 40
    assert torch.equal(got[~drawing], logits[~drawing].argmax(dim=-1))
    many = int(drawing.sum())
    settings = SamplingBatch(
        heat[drawing], torch.full((many,), 70), torch.ones(many), seeds[drawing], positions[drawing], False
    )
    assert torch.equal(got[drawing], sample(logits[drawing], settings))
