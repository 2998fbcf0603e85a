"""Every backend against dense attention written out in plain torch."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paged import INTERPRETED, all_kernels, store
from torch import Tensor

from minillm.attention.backend import AttentionBackend, choose_backend
from minillm.attention.batch import ForwardBatch
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kvcache.storage import KVCache
from minillm.model_config import ModelConfig


def dense(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None = None) -> Tensor:
    """``q [Tq, H, D]``, the last of a sequence with ``k, v [C, Hkv, D]`` -> ``[Tq, H * D]``, number by number."""
    Tq, H, D = q.shape
    C, Hkv, _ = k.shape
    out = torch.empty(Tq, H, D)
    for i in range(Tq):
        seen = C - Tq + i + 1
        first = max(0, seen - window) if window else 0
        for h in range(H):
            keys, values = k[first:seen, h // (H // Hkv)], v[first:seen, h // (H // Hkv)]
            scores = (keys @ q[i, h]) * scale
            out[i, h] = torch.softmax(scores, dim=0) @ values
    return out.reshape(Tq, H * D)


def random_case(
    lengths: list[tuple[int, int]],
    page_size: int,
    H: int,
    Hkv: int,
    D: int,
    seed: int,
    backend: AttentionBackend,
    window: int | None = None,
) -> tuple[ForwardBatch, Tensor, Tensor]:
    """A batch of (context, queries) requests over shuffled pages, its queries, and the answer. Unused slots hold
    junk."""
    torch.manual_seed(seed)
    lengths = sorted(lengths, key=lambda pair: pair[1] > 1)  # single-token requests first, as the runner has them
    pages = [-(-context // page_size) for context, _ in lengths]
    config = ModelConfig("", 10, H * D, 1, 2, H, Hkv, D, 4096)
    cache = KVCache(config, sum(pages) + 2, page_size, Hkv, torch.float32, torch.device("cpu"))
    cache.tensor.normal_(0, 30)
    free = random.Random(seed).sample(range(cache.num_pages), cache.num_pages)
    page_table = torch.zeros(len(lengths), max(pages), dtype=torch.int64)
    answers, queries = [], []
    layer = 1
    for row, (context, count) in enumerate(lengths):
        table = torch.tensor([free.pop() for _ in range(pages[row])])
        page_table[row, : len(table)] = table
        kv, q = torch.randn(context, 2, Hkv, D), torch.randn(count, H, D)
        positions = torch.arange(context)
        store(cache, layer, table[positions // page_size] * page_size + positions % page_size, kv.view(context, -1))
        answers.append(dense(q, kv[:, 0], kv[:, 1], 1 / math.sqrt(D), window))
        queries.append(q)
    T = sum(count for _, count in lengths)
    some = torch.zeros(T, dtype=torch.int64)
    batch = ForwardBatch(
        input_ids=some,
        positions=some,
        slots=some,
        page_table=page_table,
        context_lens=[context for context, _ in lengths],
        query_lens=[count for _, count in lengths],
        num_single=sum(count == 1 for _, count in lengths),
        sample_rows=None,
        kv_cache=cache,
        backend=backend,
    )
    batch.plan = batch.backend.prepare(batch)
    return batch, torch.cat(queries), torch.cat(answers)


def attend(batch: ForwardBatch, q: Tensor, window: int | None = None) -> Tensor:
    return batch.backend.attend(1, q, batch, 1 / math.sqrt(q.shape[-1]), window)


BACKENDS = [choose_backend("auto", kernels) for kernels in all_kernels()]
BACKENDS.append(choose_backend("blockwise", TorchKernels()))
every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)

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
    seed=st.integers(0, 1000),
    window=st.none() | st.integers(1, 80),
)
@settings(max_examples=25 if INTERPRETED else 60)
def test_any_batch_equals_dense_attention(
    lengths: list[tuple[int, int]],
    page_size: int,
    heads: tuple[int, int],
    D: int,
    backend: AttentionBackend,
    seed: int,
    window: int | None,
) -> None:
    batch, q, expected = random_case(lengths, page_size, *heads, D, seed, backend, window)
    torch.testing.assert_close(attend(batch, q, window), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("page_size", [1, 3, 16, 64])
@every_backend
@pytest.mark.parametrize("kind", ["decode", "prefill", "chunk", "mixed"])
def test_every_kind_of_step_with_every_page_size(kind: str, page_size: int, backend: AttentionBackend) -> None:
    lengths = {
        "decode": [(1, 1), (16, 1), (17, 1), (65, 1)],
        "prefill": [(5, 5), (16, 16), (64, 64)],
        "chunk": [(40, 7), (33, 32), (64, 2)],
        "mixed": [(20, 1), (12, 12), (50, 9), (3, 1), (2, 2)],
    }[kind]
    batch, q, expected = random_case(lengths, page_size, 6, 2, 16, 1, backend)
    torch.testing.assert_close(attend(batch, q), expected, atol=1e-5, rtol=1e-4)


@every_backend
@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 33, 64, 65])
def test_windows_that_begin_anywhere_in_a_page(window: int, backend: AttentionBackend) -> None:
    lengths = [(1, 1), (16, 1), (33, 1), (65, 1), (40, 40), (50, 9), (64, 33)]
    batch, q, expected = random_case(lengths, 16, 6, 2, 16, 3, backend, window)
    torch.testing.assert_close(attend(batch, q, window), expected, atol=1e-5, rtol=1e-4)


@every_backend
def test_layers_with_and_without_a_window_in_one_step(backend: AttentionBackend) -> None:
    """Gemma's layers take turns: what is planned for one kind must leave the other kind's plan alone."""
    lengths = [(20, 1), (31, 1), (12, 12), (50, 9)]
    batch, q, everything = random_case(lengths, 8, 6, 2, 16, 4, backend)
    narrow, wide = (random_case(lengths, 8, 6, 2, 16, 4, backend, window)[2] for window in (5, 13))
    for window, expected in [(5, narrow), (None, everything), (13, wide), (5, narrow), (None, everything)]:
        torch.testing.assert_close(attend(batch, q, window), expected, atol=1e-5, rtol=1e-4)


@every_backend
def test_a_window_does_not_read_what_lies_before_it(backend: AttentionBackend) -> None:
    """Keys that are infinite would make any score that meets them no number."""
    batch, q, expected = random_case([(40, 1)], 4, 6, 2, 16, 5, backend, 4)
    before = batch.page_table[0, :9]  # the pages of the tokens 0 to 35
    batch.kv_cache.tensor[1, before] = 1e30 if backend.name == "reference" else math.inf
    torch.testing.assert_close(attend(batch, q, 4), expected, atol=1e-5, rtol=1e-4)


@every_backend
def test_queries_that_are_a_view_of_the_fused_projection(backend: AttentionBackend) -> None:
    """In the model q is a slice of the qkv tensor, so its rows do not touch in memory."""
    batch, q, expected = random_case([(20, 1), (12, 12), (50, 9)], 16, 6, 2, 16, 2, backend)
    fused = torch.randn(len(q), 10, 16)
    fused[:, :6] = q
    torch.testing.assert_close(attend(batch, fused[:, :6]), expected, atol=1e-5, rtol=1e-4)


def test_the_choice_of_a_backend_follows_the_kernels() -> None:
    assert choose_backend("auto", TorchKernels()).name == "reference"
    with pytest.raises(ValueError, match=r"attention_backend 'cpu' needs kernels='cpu'.*use 'reference'"):
        choose_backend("cpu", TorchKernels())
    for kernels in all_kernels()[1:]:
        assert choose_backend("auto", kernels).name == choose_backend(kernels.name, kernels).name == kernels.name
        assert choose_backend("reference", kernels).name == "reference"
