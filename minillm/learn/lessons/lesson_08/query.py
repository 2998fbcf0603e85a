"""One token's query in one layer, with all that attention needs for it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minillm.attention.batch import ForwardBatch
from minillm.engine.engine import Engine
from minillm.kvcache.storage import KVCache
from minillm.probe import Event


@dataclass
class Query:
    """q [1, H, D]; batch: of this one request; layer, scale."""

    q: Tensor
    batch: ForwardBatch
    layer: int
    scale: float

    @property
    def length(self) -> int:
        return self.batch.context_lens[0]

    @property
    def cache(self) -> Tensor:
        """``[P * S, 2 * Hkv * D]``."""
        return self.batch.kv_cache.slots[self.layer]

    @property
    def heads(self) -> Tensor:
        """The query heads by the key/value head that they share: ``[Hkv, G, D]``."""
        Hkv = self.batch.kv_cache.tensor.shape[-2]
        return self.q.view(Hkv, -1, self.q.shape[-1]).float()

    @property
    def kv_bytes(self) -> int:
        """Every key and value of its context, once."""
        return self.length * self.cache.shape[1] * self.cache.element_size()


def kept(event: Event) -> Query:
    """The one request's query of an `attention.attend`, and its batch without what the next step writes over."""
    batch = replace(event.batch, page_table=event.batch.page_table.clone())
    return Query(event.q.clone(), batch, event.layer, event.frame.f_locals["self"].scale)


def made_up(engine: Engine, length: int) -> Query:
    """A query of one request with ``length`` tokens, in a cache of its own; its numbers are random."""
    own, config = engine.runner.kv_cache, engine.model_config
    H, Hkv, D = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    one_layer = replace(config, num_hidden_layers=1)
    cache = KVCache(one_layer, -(-length // 16), 16, Hkv, own.tensor.dtype, own.tensor.device)
    torch.manual_seed(length)
    cache.tensor.normal_()
    q = torch.randn(1, H, D, dtype=own.tensor.dtype, device=own.tensor.device)
    table = torch.randperm(cache.num_pages, device=q.device)[None]
    some = torch.zeros(1, dtype=torch.int64, device=q.device)
    batch = ForwardBatch(some, some, some, table, [length], [1], 1, None, cache, engine.runner.backend)
    return Query(q, batch, 0, D**-0.5)
