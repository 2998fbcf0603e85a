"""KVCache: what is stored in a slot is there, and nowhere else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from paged import store
from tiny import LLAMA

from minillm.attention.batch import ForwardBatch
from minillm.attention.reference import ReferenceAttention, gather_kv
from minillm.kvcache.storage import KVCache
from minillm.model_config import ModelConfig

CONFIG = ModelConfig.from_dict(LLAMA)


def make_cache(num_pages: int, page_size: int, dtype: torch.dtype = torch.float32) -> KVCache:
    return KVCache(CONFIG, num_pages, page_size, CONFIG.num_key_value_heads, dtype, torch.device("cpu"))


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
    assert torch.equal(cache.layer(1), expected[1])


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
    backend = ReferenceAttention()
    some = torch.zeros(2, dtype=torch.int64)
    batch = ForwardBatch(some, some, some, page_table, lengths, [1, 1], 2, None, cache, backend)
    k, v = gather_kv(2, batch, backend.prepare(batch)[None][0])
    for row, (kv, length) in enumerate(zip(stored, lengths)):
        assert torch.equal(k[row, :, :length].transpose(0, 1), kv[:, 0])
        assert torch.equal(v[row, :, :length].transpose(0, 1), kv[:, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_new_cache_is_zero_and_as_large_as_it_says(dtype: torch.dtype) -> None:
    """Never NaN: attention multiplies what it masks by zero."""
    cache = make_cache(5, 7, dtype)
    assert cache.tensor.shape == (3, 5, 7, 2, 2, 16) and cache.tensor.dtype == dtype
    assert not cache.tensor.any()
    assert cache.num_bytes == 35 * CONFIG.kv_bytes_per_token(dtype.itemsize) == cache.tensor.nbytes
