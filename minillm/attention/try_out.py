"""The first run of a backend that others' compilers have a part in: does it give what the naive one gives?"""

import torch

from minillm.attention.backend import AttentionBackend
from minillm.attention.batch import ForwardBatch
from minillm.attention.naive import NaiveAttention
from minillm.kvcache.storage import KVCache
from minillm.probe import unheard


def try_out(candidate: AttentionBackend, kv_cache: KVCache) -> None:
    """Run ``candidate`` over the first page of each kind of layer: one token of one request, two of another. The page
    is left empty.

    RuntimeError if naive attention gives something else; whatever the candidate raises goes on to the caller.
    """
    shape, counts = candidate.shape, [1, 2] if kv_cache.page_size > 1 else [1]
    device, random = kv_cache.device, torch.Generator().manual_seed(0)
    slots = torch.arange(counts[-1], device=device)
    batch = ForwardBatch(
        input_ids=slots, positions=slots, slots=slots, page_table=slots.new_zeros(len(counts), 1), context_lens=counts,
        query_lens=counts, num_single=1, sample_rows=None, kv_cache=kv_cache, backend=candidate,
    )  # fmt: skip

    def numbers(heads: int, rows: int) -> torch.Tensor:
        return torch.randn(rows, heads, shape.head_dim, generator=random).to(device, shape.dtype)

    with unheard():
        batch.plan = candidate.prepare(batch)
        for layer in (shape.windows.index(window) for window in shape.kinds):
            kv, q = kv_cache[layer], numbers(shape.num_heads, sum(counts))
            kv.store(slots, numbers(shape.num_kv_heads, len(slots)), numbers(shape.num_kv_heads, len(slots)))
            try:
                got, right = candidate.attend(layer, q, batch), NaiveAttention(shape).attend(layer, q, batch)
            finally:
                kv.slots[slots] = 0
            if not torch.allclose(got.float(), right.float(), rtol=0.05, atol=0.05):
                raise RuntimeError("attention gives another result than naive attention does")
