"""Every backend against naive attention, which test_naive.py holds against attention written out number by number."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from fuzz import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from paged import INTERPRETED, all_kernels, make_batch, make_cache, make_shape, shuffled_pages
from tiny import ARCHITECTURES, make_model
from torch import Tensor
from workload import make_engine

from minillm.attention.backend import AttentionBackend, AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.attention.blockwise import BlockwiseAttention
from minillm.attention.choose import asked_for, choose_backend
from minillm.attention.gather import GatherAttention
from minillm.attention.naive import NaiveAttention
from minillm.config import ATTENTION_BACKENDS
from minillm.kernels.torch.kernels import TorchKernels

Make = Callable[[AttentionShape], AttentionBackend]
BACKENDS: dict[str, Make] = {"reference": GatherAttention, "blockwise": BlockwiseAttention}
for kernels in all_kernels():
    if kernels.name == "cpu":
        from minillm.attention.cpu import CpuAttention

        BACKENDS["cpu"] = lambda shape, kernels=kernels: CpuAttention(shape, kernels)  # type: ignore[misc]
    if kernels.name == "triton":
        from minillm.attention.triton import TritonAttention

        BACKENDS["triton"] = TritonAttention
every_backend = pytest.mark.parametrize("name", BACKENDS)


@dataclass
class Case:
    """A step, the queries of each layer, and what naive attention gives for them."""

    batch: ForwardBatch
    queries: list[Tensor]
    answers: list[Tensor]

    def assert_right(self, layer: int, q: Tensor | None = None) -> None:
        got = self.batch.backend.attend(layer, self.queries[layer] if q is None else q, self.batch)
        torch.testing.assert_close(got, self.answers[layer], atol=1e-5, rtol=1e-4)


def random_case(
    name: str, lengths: list[tuple[int, int]], page_size: int, shape: AttentionShape, seed: int = 1, spare: int = 0
) -> Case:
    """A batch of (context, queries) requests over shuffled pages, prepared. Unused slots hold junk."""
    torch.manual_seed(seed)
    lengths = sorted(lengths, key=lambda pair: pair[1] > 1)  # single-token requests first, as the runner has them
    cache = make_cache(shape, sum(-(-context // page_size) for context, _ in lengths) + 2, page_size)
    cache.tensor.normal_(0, 30)
    table = shuffled_pages(cache, lengths, seed, spare)
    batch = make_batch(cache, lengths, table, BACKENDS[name](shape))
    for kv in cache:
        for row, (context, _) in zip(table, lengths):
            at, keys_values = torch.arange(context), torch.randn(2, context, shape.num_kv_heads, shape.head_dim)
            kv.store(row[at // page_size] * page_size + at % page_size, *keys_values)
    queries = [torch.randn(batch.num_tokens, shape.num_heads, shape.head_dim) for _ in cache]
    answers = [NaiveAttention(shape).attend(layer, q, batch) for layer, q in enumerate(queries)]
    batch.plan = batch.backend.prepare(batch)
    return Case(batch, queries, answers)


# (context, queries) with 1 <= queries <= context
_lengths = st.integers(1, 70).flatmap(
    lambda c: st.tuples(st.just(c), st.one_of(st.just(1), st.just(c), st.integers(1, c)))
)


@every_backend
@given(
    lengths=st.lists(_lengths, min_size=1, max_size=5),
    page_size=st.sampled_from([1, 3, 16, 48, 64]),
    heads=st.sampled_from([(1, 1), (4, 4), (6, 2), (6, 1)]),
    D=st.sampled_from([8, 20, 64]),
    windows=st.lists(st.none() | st.integers(1, 80), min_size=1, max_size=4),
    scale=st.sampled_from([None, 0.1, 1.0]),
    spare=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
@settings(max_examples=examples(15 if INTERPRETED else 30))
def test_any_step_of_any_model_is_naive_attention(
    name: str, lengths: list[tuple[int, int]], page_size: int, heads: tuple[int, int], D: int,
    windows: list[int | None], scale: float | None, spare: int, seed: int,
) -> None:  # fmt: skip
    """All layers with one plan, in any order, as often as one likes."""
    case = random_case(name, lengths, page_size, make_shape(*heads, D, windows, scale), seed, spare)
    for layer in [*range(len(windows)), *reversed(range(len(windows)))]:
        case.assert_right(layer)


@pytest.mark.parametrize("page_size", [1, 3, 16, 64])
@every_backend
@pytest.mark.parametrize("kind", ["decode", "prefill", "chunk", "mixed"])
def test_every_kind_of_step_with_every_page_size(kind: str, page_size: int, name: str) -> None:
    lengths = {
        "decode": [(1, 1), (16, 1), (17, 1), (65, 1)],
        "prefill": [(5, 5), (16, 16), (64, 64)],
        "chunk": [(40, 7), (33, 32), (64, 2)],
        "mixed": [(20, 1), (12, 12), (50, 9), (3, 1), (2, 2)],
    }[kind]
    random_case(name, lengths, page_size, make_shape(6, 2, 16)).assert_right(1)


@every_backend
def test_windows_that_begin_anywhere_in_a_page(name: str) -> None:
    lengths = [(1, 1), (16, 1), (33, 1), (65, 1), (40, 40), (50, 9), (64, 33)]
    windows = [1, 2, 15, 16, 17, 33, 64, 65]
    case = random_case(name, lengths, 16, make_shape(6, 2, 16, windows), seed=3)
    for layer in range(len(windows)):
        case.assert_right(layer)


@every_backend
def test_a_window_does_not_read_what_lies_before_it(name: str) -> None:
    """Keys that are infinite would make any score that meets them no number."""
    case = random_case(name, [(40, 1)], 4, make_shape(6, 2, 16, [4]), seed=5)
    before = case.batch.page_table[0, :9]  # the pages of the tokens 0 to 35
    case.batch.kv_cache[0].tensor[before] = 1e30 if name == "reference" else math.inf
    case.assert_right(0)


@every_backend
def test_queries_that_are_a_view_of_the_fused_projection(name: str) -> None:
    """In the model q is a slice of the qkv tensor, so its rows do not touch in memory."""
    case = random_case(name, [(20, 1), (12, 12), (50, 9)], 16, make_shape(6, 2, 16), seed=2)
    fused = torch.randn(len(case.queries[1]), 10, 16)
    fused[:, :6] = case.queries[1]
    case.assert_right(1, fused[:, :6])


@every_backend
def test_a_plan_is_finished_when_it_is_prepared(name: str) -> None:
    """`attend` adds nothing to it: layers could run in any order, or be recorded."""
    lengths = [(20, 1), (31, 1), (12, 12), (50, 9)]
    case = random_case(name, lengths, 8, make_shape(6, 2, 16, [None, 5, 13, 100]), seed=4)
    plan = case.batch.plan
    parts = plan if isinstance(plan, list) else [plan]
    before = [dict(vars(part)) for part in parts]
    for layer in range(4):
        case.assert_right(layer)
    assert case.batch.plan is plan and len(parts) == len(before)
    for part, then in zip(parts, before):
        assert vars(part).keys() == then.keys() and all(vars(part)[name] is then[name] for name in then)


def test_what_no_layer_needs_is_not_worked_out() -> None:
    shape = make_shape(6, 2, 16, [5, 5, 200])
    plan = random_case("reference", [(20, 1), (31, 1), (12, 12), (50, 9)], 8, shape).batch.plan
    for gather in plan:
        assert set(gather.masks) == {5, 200}
    whole = plan[1]  # of the prompt that is computed whole: only causality hides anything, but in a window of 5
    assert whole.masks[200] is None and whole.masks[5] is not None


# Shapes, and the choice of a backend.


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_shape_says_of_each_layer_what_the_layer_says_of_itself(kind: str, tmp_path: Path) -> None:
    theirs = make_model(tmp_path, kind)
    engine = make_engine(tmp_path)
    shape = engine.runner.backend.shape
    layers = [module for module in engine.model.modules() if hasattr(module, "qkv_proj")]
    assert len(layers) == len(shape.windows) == shape.kv.num_layers == len(engine.runner.kv_cache)
    for number, layer in enumerate(layers):
        assert (layer.layer, layer.window) == (number, shape.windows[number])
        assert (layer.num_heads, layer.num_kv_heads) == (shape.num_heads, shape.num_kv_heads)
        assert layer.head_dim == shape.head_dim
    scales = [module.scaling for module in theirs.modules() if hasattr(module, "scaling")]
    assert len(scales) == len(layers) and all(scale == pytest.approx(shape.scale) for scale in scales)


def test_the_choice_of_a_backend_follows_the_kernels() -> None:
    shape = make_shape(4, 2, 16)
    cache = make_cache(shape, 2, 4)

    def chosen(name: str, kernels: TorchKernels) -> str:
        return choose_backend(name, kernels, shape, cache).name

    assert chosen("auto", TorchKernels()) == "reference"
    with pytest.raises(ValueError, match=r"attention_backend 'cpu' needs kernels='cpu'.*use 'reference'"):
        chosen("cpu", TorchKernels())
    with pytest.raises(ValueError, match=r"attention_backend is 'fast'; it must be one of naive, reference, "):
        chosen("fast", TorchKernels())
    for kernels in all_kernels()[1:]:
        assert chosen("auto", kernels) == chosen(kernels.name, kernels) == kernels.name
        assert chosen("reference", kernels) == "reference"
    assert not cache.tensor.any(), "what was tried out is wiped away"


@pytest.mark.parametrize("name", ATTENTION_BACKENDS)
def test_every_name_has_a_file_and_a_backend_of_that_name(name: str) -> None:
    shape = make_shape(4, 2, 16)
    for kernels in all_kernels():
        try:
            assert asked_for(name, kernels, shape, make_cache(shape, 2, 4)).name == name
        except ValueError as refused:
            assert name in str(refused)
