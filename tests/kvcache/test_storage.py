"""KVCache: what is stored in a slot is there, and nowhere else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from paged import store
from tiny import LLAMA

from minillm.attention.backend import AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.attention.gather import GatherAttention, gather_kv
from minillm.kvcache.storage import KVCache, KVSpec
from minillm.model_config import ModelConfig

CONFIG = ModelConfig.from_dict(LLAMA)


def make_cache(num_pages: int, page_size: int, dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(KVSpec.of(CONFIG, CONFIG.num_key_value_heads, dtype), num_pages, page_size, torch.device("cpu"))


@given(page_size=st.sampled_from([1, 3, 16, 64]), data=st.data())
def test_store_writes_these_slots_of_this_layer_and_no_other(page_size: int, data: st.DataObject) -> None:
    num_pages = 5
    cache = make_cache(num_pages, page_size)
    slots = data.draw(st.lists(st.integers(0, num_pages * page_size - 1), min_size=1, max_size=20, unique=True))
    kv = torch.randn(len(slots), 2 * 2 * 16)
    store(cache, 1, torch.tensor(slots), kv)
    expected = torch.zeros(3, num_pages, page_size, 2, 2, 16)
    for row, slot in enumerate(slots):
        keys, values = kv[row].view(2, 2, 16)
        expected[1, slot // page_size, slot % page_size, 0] = keys
        expected[1, slot // page_size, slot % page_size, 1] = values
    assert torch.equal(cache.tensor, expected)
    assert torch.equal(cache[1].tensor, expected[1])
    keys, values = cache[1].read(torch.tensor(slots))
    assert torch.equal(torch.stack([keys, values], dim=1).flatten(1), kv)


def test_storing_again_overwrites() -> None:
    cache = make_cache(2, 4)
    store(cache, 0, torch.tensor([5]), torch.ones(1, 64))
    store(cache, 0, torch.tensor([5]), torch.full((1, 64), 2.0))
    assert cache.tensor.sum() == 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("page_size", [1, 3, 16, 24, 64])
def test_what_was_stored_is_gathered_in_order(page_size: int, dtype: torch.dtype) -> None:
    """Two requests of different lengths whose pages lie in any order: the round trip gives their own tokens back."""
    lengths = [37, 22]
    pages = [-(-length // page_size) for length in lengths]
    cache = make_cache(sum(pages) + 3, page_size, dtype)
    order = torch.randperm(cache.num_pages)
    tables = [order[: pages[0]], order[pages[0] : sum(pages)]]
    page_table = torch.zeros(2, max(pages), dtype=torch.int64)
    stored = []
    for row, (table, length) in enumerate(zip(tables, lengths)):
        page_table[row, : len(table)] = table
        positions = torch.arange(length)
        kv = torch.randn(length, 64).to(dtype)
        store(cache, 2, table[positions // page_size] * page_size + positions % page_size, kv)
        stored.append(kv.view(length, 2, 2, 16))  # token, key or value, head, number
    backend = GatherAttention(AttentionShape.of(CONFIG, dtype, torch.device("cpu")))
    some = torch.zeros(2, dtype=torch.int64)
    batch = ForwardBatch(some, some, some, page_table, lengths, [1, 1], 2, None, cache, backend)
    k, v = gather_kv(2, batch, backend.prepare(batch)[0])
    for row, (kv, length) in enumerate(zip(stored, lengths)):
        assert torch.equal(k[row, :, :length].transpose(0, 1), kv[:, 0])
        assert torch.equal(v[row, :, :length].transpose(0, 1), kv[:, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_new_cache_is_zero_and_as_large_as_it_says(dtype: torch.dtype) -> None:
    """Never NaN: attention multiplies what it masks by zero."""
    cache = make_cache(5, 7, dtype)
    assert cache.tensor.shape == (3, 5, 7, 2, 2, 16) and cache.tensor.dtype == dtype
    assert not cache.tensor.any()
    assert cache.num_bytes == 5 * cache.spec.page_bytes(7) == cache.tensor.nbytes
    assert cache.spec.bytes_per_token == 2 * 3 * 2 * 16 * dtype.itemsize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn])
def test_a_layer_says_what_it_is(dtype: torch.dtype) -> None:
    cache = make_cache(5, 7, dtype)
    assert len(cache) == 3 and [layer.num_pages for layer in cache] == [5, 5, 5]
    layer = cache[2]
    assert (layer.page_size, layer.num_kv_heads, layer.head_dim, layer.dtype) == (7, 2, 16, dtype)
    assert layer.slots.shape == (35, 64) and layer.keys.shape == layer.values.shape == (5, 7, 2, 16)
    assert sum(layer.num_bytes for layer in cache) == cache.num_bytes == 35 * cache.spec.bytes_per_token
    assert 3 * layer.page_bytes == cache.spec.page_bytes(7)
    assert repr(layer).startswith(f"KVLayer([P=5, S=7, 2, Hkv=2, D=16] {str(dtype).removeprefix('torch.')}")
    layer.slots[9] = 1
    assert (layer.keys[1, 2] == 1).all() and (layer.values[1, 2] == 1).all()
    assert cache.tensor[2, 1, 2].float().sum() == 64 == cache.tensor.float().sum(), "they are views of one memory"


@given(seed=st.integers(0, 1000), size=st.sampled_from([1e-9, 1e-3, 1.0, 300.0]))
def test_small_types_keep_each_head_s_numbers_to_their_largest(seed: int, size: float) -> None:
    """An error of half a step of int8, or of a sixteenth of the number with float8's three bits: of each head's own
    largest number, whatever stands beside it."""
    torch.manual_seed(seed)
    kv = torch.randn(6, 2, 2, 16) * torch.tensor([1.0, 50.0])[:, None] * size  # token, key or value, head, number
    slots = torch.randperm(35)[:6]
    for dtype, steps in ((torch.int8, 127), (torch.float8_e4m3fn, 16)):
        layer = make_cache(5, 7, dtype)[1]
        layer.store(slots, kv[:, 0], kv[:, 1])
        got = torch.stack(layer.read(slots), dim=1)
        most = (kv.abs().amax(dim=-1, keepdim=True) / steps).clamp(min=1e-6)
        assert ((got - kv).abs() <= most * 0.51).all() if dtype == torch.int8 else ((got - kv).abs() <= most).all()
        untouched = torch.ones(35, dtype=torch.bool).index_fill_(0, slots, False)
        assert not torch.stack(layer.read(untouched.nonzero().flatten())).any()
