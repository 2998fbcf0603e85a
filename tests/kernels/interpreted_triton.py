"""What only Triton's kernels have: run by test_triton.py, in a process with TRITON_INTERPRET=1, on a CPU."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from debug.test_catalogue import Watcher
from paged import make_batch, make_cache, make_shape
from parity import random_prompt
from tiny import TEXT_VOCAB, make_model
from torch.nn import functional as F
from workload import Job, make_engine, run_jobs

from minillm.attention import triton as attention
from minillm.attention.batch import ForwardBatch
from minillm.attention.choose import choose_backend
from minillm.debug.catalogue import catalogue, locations
from minillm.kernels.torch.attention import paged_decode
from minillm.kernels.torch.kernels import ACTIVATIONS
from minillm.kernels.triton import attention as triton_attention
from minillm.kernels.triton import kernels as triton_kernels
from minillm.kernels.triton import load as triton_load
from minillm.kernels.triton import rows as triton_rows
from minillm.probe import listen
from minillm.worker.platform import choose_kernels

CPU = torch.device("cpu")
kernels, _ = triton_load.load(CPU, torch.float32)
assert kernels is not None


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize(("N", "K"), [(1, 1), (7, 48), (5, 1030), (3, 4100)])
def test_few_rows_linear_is_a_matrix_product(rows: int, N: int, K: int) -> None:
    x, weight, bias = torch.randn(rows, K), torch.randn(N, K) / K**0.5, torch.randn(N)
    for b in (None, bias):
        torch.testing.assert_close(kernels.few_rows_linear(x, weight, b), F.linear(x, weight, b), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("act", kernels.gates)
@pytest.mark.parametrize(("N", "K"), [(1, 1), (7, 48), (5, 1030)])
def test_one_row_gated_is_the_product_and_then_the_gate(act: str, N: int, K: int) -> None:
    x, weight, bias = torch.randn(1, K), torch.randn(2 * N, K) / K**0.5, torch.randn(2 * N)
    for b in (None, bias):
        gate, up = F.linear(x, weight, b).chunk(2, dim=-1)
        got = kernels.one_row_gated(x, weight, b, act)
        torch.testing.assert_close(got, ACTIVATIONS[act](gate) * up, atol=1e-5, rtol=1e-5)


def test_it_takes_a_few_rows_where_that_is_faster() -> None:
    small, large = (1024, 2048), (28672, 4096)
    assert [triton_rows.few_rows_is_faster(rows, *small) for rows in (1, 2, 4, 5)] == [True, True, True, False]
    assert [triton_rows.few_rows_is_faster(rows, *large) for rows in (1, 2)] == [True, False]


def test_a_padding_row_is_stored_nowhere() -> None:
    T, H, Hkv, D = 4, 3, 1, 8
    cache, slots = torch.full((6, 2 * Hkv * D), 5.0), torch.tensor([2, -1, 0, -1])
    qkv, one = torch.randn(T, (H + 2 * Hkv) * D), torch.ones(T, D)
    kernels.rotate_and_store(qkv, one, 0 * one, cache, slots, H, Hkv)
    assert torch.equal(cache[[2, 0]], qkv[[0, 2], H * D :])
    assert (cache[[1, 3, 4, 5]] == 5).all()


def decode_batch(
    lengths: list[int], H: int, Hkv: int, D: int, scale: float = 1.0, window: int | None = None
) -> tuple[ForwardBatch, torch.Tensor]:
    """One layer, one token a request, pages of 4 in any order, full of random numbers."""
    shape, pages = make_shape(H, Hkv, D, [window], scale), max(-(-max(lengths) // 4), 1)
    cache = make_cache(shape, pages * len(lengths), 4)
    cache.tensor.normal_()
    table = torch.randperm(cache.num_pages).view(len(lengths), pages)
    batch = make_batch(cache, [(length, 1) for length in lengths], table, attention.TritonAttention(shape))
    return batch, torch.randn(len(lengths), H, D)


def dense(batch: ForwardBatch, q: torch.Tensor, row: int) -> torch.Tensor:
    """``[H * D]``, of one request."""
    kv = batch.kv_cache[0].tensor[batch.page_table[row]].flatten(0, 1)[: batch.context_lens[row]]  # [C, 2, Hkv, D]
    kv = kv.repeat_interleave(q.shape[1] // kv.shape[2], dim=2)
    weights = torch.einsum("hd,chd->hc", q[row], kv[:, 0]).softmax(-1)
    return torch.einsum("hc,chd->hd", weights, kv[:, 1]).flatten()


def test_rows_without_context_give_zeros_and_disturb_nobody() -> None:
    """As the padding rows of a CUDA graph do."""
    batch, q = decode_batch([9, 0, 200, 0], 6, 2, 16)
    batch.plan = batch.backend.prepare(batch)
    got = batch.backend.attend(0, q, batch)
    assert not got[[1, 3]].any()
    for row in (0, 2):
        torch.testing.assert_close(got[row], dense(batch, q, row), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("splits", [1, 2, 4, 16])
@pytest.mark.parametrize(("H", "Hkv"), [(1, 1), (6, 2), (20, 1)])
def test_any_number_of_splits_gives_the_same(splits: int, H: int, Hkv: int) -> None:
    """More than the context has blocks, too: graphs are captured with one number for all contexts."""
    batch, q = decode_batch([300, 31, 32, 65], H, Hkv, 24)
    for each in (1, 3):
        batch.plan = planned(batch, splits, each)
        got = batch.backend.attend(0, q, batch)
        for row in range(4):
            torch.testing.assert_close(got[row], dense(batch, q, row), atol=1e-5, rtol=1e-4)
        assert not batch.backend.scratch.arrivals.any(), "the next layer counts from zero"


def planned(batch: ForwardBatch, splits: int, each: int) -> attention.TritonPlan:
    tile = triton_attention.Tile(tokens=32, warps=4, stages=2)
    return batch.backend.plan_decode(torch.tensor(batch.context_lens), torch.tensor([each]), splits, tile)


def test_the_comments_in_the_kernels_are_probes_that_say_what_is_there() -> None:
    """Each comes by, all expressions of its catalogue entry hold there, and the line after it is the documented one."""
    batch, q = decode_batch([300, 31], 6, 2, 24)
    batch.plan, seen = planned(batch, 4, 3), Watcher()
    with listen("kernel.*", seen):
        batch.backend.attend(0, q, batch)
    assert {name for name, _, _ in seen.next_lines} == {one.name for one in catalogue().values() if one.interpreted}
    assert not seen.failing and not seen.untrue
    assert not [c.expression for name in catalogue() for c in seen.conditions[name] if c.reported]
    for (name, file, line), next_lines in seen.next_lines.items():
        assert (file, line, *next_lines) in locations()[name]


def test_what_the_probes_hand_over_is_what_the_kernel_computes() -> None:
    """The running sums of one program, followed from outside; the kernel's answer is the same as without a listener."""
    batch, q = decode_batch([100], 2, 2, 16)
    batch.plan, events = planned(batch, 1, 4), []
    with listen(
        "kernel.softmax", lambda event: events.append({k: v.handle.data[0].copy() for k, v in event.values.items()})
    ):
        got = batch.backend.attend(0, q, batch)
    assert torch.equal(got, batch.backend.attend(0, q, batch)) and len(events) == 2 * 4
    first, second = events[:2]
    assert first["top"] < -1e29 and first["fix"] == 0 and second["top"] == first["new_top"]
    assert np.isclose(second["total"], np.exp2(first["scores"] - first["new_top"]).sum(), rtol=1e-5)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize(("splits", "each"), [(1, 16), (4, 3)])
def test_the_twin_in_torch_gives_what_the_kernel_gives(splits: int, each: int, window: int | None) -> None:
    batch, q = decode_batch([300, 31, 32, 1], 6, 2, 24, 0.3, window)
    batch.plan = planned(batch, splits, each)
    got = batch.backend.attend(0, q, batch)
    heads, cache = q.view(4, 2, 3, 24), batch.kv_cache
    twin = paged_decode(heads, cache[0].slots, batch.page_table, batch.context_lens, 4, 0.3, 32, each, window)
    torch.testing.assert_close(got, twin.view(4, -1), atol=1e-5, rtol=1e-4)


def test_torch_kernels_go_with_interpreted_attention(tmp_path: Path) -> None:
    """Where attention alone is to be looked at: interpreting all kernels would take minutes."""
    make_model(tmp_path, "qwen3", vocab_size=TEXT_VOCAB, num_hidden_layers=1)
    jobs = [Job(tuple(random_prompt(length, length, TEXT_VOCAB)), 3) for length in (9, 1)]
    plain = run_jobs(make_engine(tmp_path, kernels="torch", attention_backend="reference"), jobs)
    tried = []
    with listen("kernel.*", tried.append):
        engine = make_engine(tmp_path, kernels="torch", attention_backend="triton", page_size=3)
    assert engine.runner.backend.name == "triton" and not tried, "what is only tried is told to nobody"
    run = run_jobs(engine, jobs)
    assert [run.tokens(i) for i in range(2)] == [plain.tokens(i) for i in range(2)]


def test_an_engine_on_interpreted_kernels_gives_the_reference_tokens(tmp_path: Path) -> None:
    make_model(tmp_path, "qwen3", vocab_size=TEXT_VOCAB, num_hidden_layers=1)
    jobs = [Job(tuple(random_prompt(length, length, TEXT_VOCAB)), 3) for length in (9, 1)]
    plain = run_jobs(make_engine(tmp_path, kernels="torch", attention_backend="reference"), jobs)
    engine = make_engine(tmp_path, kernels="triton", page_size=3, max_num_batched_tokens=5)
    assert engine.runner.backend.name == "triton"
    run = run_jobs(engine, jobs)
    assert [run.tokens(i) for i in range(2)] == [plain.tokens(i) for i in range(2)]


class Broken:
    """A kernel whose compiler gives up."""

    def __getitem__(self, _grid: object) -> object:
        def launch(*_args: object, **_options: object) -> None:
            raise RuntimeError("out of resource: shared memory\nmore lines of a compiler")

        return launch


def test_kernels_that_do_not_compile_are_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minillm.kernels.triton.norm._rms_norm", Broken())
    triton_load.load.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"Triton's kernels failed .*shared memory; torch does their work"):
            found, why = triton_load.load(CPU, torch.float32)
        assert found is None and why.endswith("RuntimeError: out of resource: shared memory")
        with pytest.raises(ValueError, match=r"kernels is 'triton', but .*shared memory; use kernels='auto'"):
            choose_kernels("triton", CPU, torch.float32)
    finally:
        triton_load.load.cache_clear()


def test_kernels_that_compute_something_else_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_rows, "few_rows_linear", lambda x, weight, _bias: x @ weight.T + 1)
    with pytest.raises(RuntimeError, match="few_rows_linear gives another result than torch does"):
        triton_kernels.try_all(kernels, CPU, torch.float32)


def chosen(name: str, batch: ForwardBatch) -> str:
    return choose_backend(name, kernels, batch.backend.shape, batch.kv_cache).name


def test_attention_that_does_not_compile_leaves_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, _ = decode_batch([5], 6, 2, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen("auto", batch) == "triton"
    monkeypatch.setattr(triton_attention, "_paged_decode", Broken())
    with pytest.warns(UserWarning, match="Triton's attention kernels failed"):
        assert chosen("auto", batch) == "reference"
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"attention_backend is 'triton', but .*shared mem"):
        chosen("triton", batch)


def test_heads_that_are_too_large_leave_the_reference() -> None:
    batch, _ = decode_batch([5], 2, 2, 320)
    assert chosen("auto", batch) == "reference"
    with pytest.raises(ValueError, match=r"heads have 320 numbers, and its kernels take at most 256; use 'reference'"):
        chosen("triton", batch)
