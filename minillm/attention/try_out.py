"""The first run of a backend that others' compilers have a part in: does it give what the reference gives?"""

import torch

from minillm.attention.backend import AttentionBackend
from minillm.attention.batch import ForwardBatch
from minillm.attention.reference import ReferenceAttention
from minillm.kvcache.storage import KVCache
from minillm.probe import unheard


def try_out(candidate: AttentionBackend, kv_cache: KVCache, num_heads: int) -> None:
    """Run ``candidate`` for this cache over its first page: one token of one request, two of another.

    RuntimeError if the reference gives something else; whatever it raises itself goes on to the caller.
    """
    kv = kv_cache.tensor
    tokens = torch.zeros(3, dtype=torch.int64, device=kv.device)
    counts = [1, 2] if kv_cache.page_size > 1 else [1]
    q = torch.ones(sum(counts), num_heads, kv.shape[-1], dtype=kv.dtype, device=kv.device)
    answers = []
    for backend in (candidate, ReferenceAttention()):
        batch = ForwardBatch(
            input_ids=tokens, positions=tokens, slots=tokens, page_table=tokens[: len(counts), None],
            context_lens=counts, query_lens=counts, num_single=1, sample_rows=None, kv_cache=kv_cache, backend=backend,
        )  # fmt: skip
        with unheard():
            batch.plan = backend.prepare(batch)
            answers.append(backend.attend(0, q, batch, 1.0).float())
    if not torch.allclose(answers[0], answers[1], rtol=0.05, atol=0.05):
        raise RuntimeError("attention gives another result than the reference does")
