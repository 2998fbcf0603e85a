"""One token's query in one layer, with all that attention needs for it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minillm.attention.backend import AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.attention.blockwise import BlockwiseAttention
from minillm.engine.engine import Engine
from minillm.kvcache.storage import KVCache
from minillm.probe import Event


@dataclass
class Query:
    """q [1, H, D]; batch: of this one request."""

    q: Tensor
    batch: ForwardBatch
    layer: int

    @property
    def shape(self) -> AttentionShape:
        """The model's attention: what backends are made for."""
        return self.batch.backend.shape

    @property
    def scale(self) -> float:
        return self.shape.scale

    @property
    def length(self) -> int:
        return self.batch.context_lens[0]

    @property
    def cache(self) -> Tensor:
        """``[P * S, 2 * Hkv * D]``."""
        return self.batch.kv_cache[self.layer].slots

    @property
    def heads(self) -> Tensor:
        """The query heads by the key/value head that they share: ``[Hkv, G, D]``."""
        return self.q.view(self.shape.num_kv_heads, -1, self.q.shape[-1]).float()

    @property
    def kv_bytes(self) -> int:
        """Every key and value of its context, once."""
        return self.length * self.cache.shape[1] * self.cache.element_size()


def kept(event: Event) -> Query:
    """The one request's query of an `attention.attend`, and its batch without what the next step writes over."""
    batch = replace(event.batch, page_table=event.batch.page_table.clone())
    return Query(event.q.clone(), batch, event.layer)


def made_up(engine: Engine, length: int) -> Query:
    """A query of one request with ``length`` tokens, in a cache of its own; its numbers are random."""
    own = engine.runner.backend.shape
    shape = replace(own, windows=(None,), kv=replace(own.kv, num_layers=1))
    cache = KVCache(shape.kv, -(-length // 16), 16, shape.device)
    torch.manual_seed(length)
    cache.tensor.normal_()
    q = torch.randn(1, shape.num_heads, shape.head_dim, dtype=shape.dtype, device=shape.device)
    table = torch.randperm(cache.num_pages, device=q.device)[None]
    some = torch.zeros(1, dtype=torch.int64, device=q.device)
    batch = ForwardBatch(some, some, some, table, [length], [1], 1, None, cache, BlockwiseAttention(shape))
    return Query(q, batch, 0)
