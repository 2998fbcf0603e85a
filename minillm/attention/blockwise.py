"""Attention as the GPU's decode kernel does it, in plain torch, for looking. Prompts go as in the reference."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from minillm.attention.batch import ForwardBatch
from minillm.attention.reference import Gather, ReferenceAttention
from minillm.kernels.torch.attention import paged_decode

BLOCK = 16  # tokens that are looked at together
BLOCKS_A_SPLIT = 4


class BlockwiseAttention(ReferenceAttention):
    """Decode reads pages where they lie, a block at a time, in splits of so many blocks."""

    name = "blockwise"
    gathers = False
    recordable: tuple[str, ...] = ()

    def plan_singles(self, batch: ForwardBatch, first: int = 0, last: int | None = None) -> "Windowed":
        return Windowed(batch.num_single, None)

    def decode(self, layer: int, q: Tensor, batch: ForwardBatch, plan: "Windowed | Gather", scale: float) -> Tensor:
        """One query a request: ``q [R, H, D]`` -> ``[R, H * D]``. Sums are kept in float32, as in the kernel."""
        assert isinstance(plan, Windowed)
        cache, (R, H, D) = batch.kv_cache, q.shape
        Hkv = cache.tensor.shape[-2]
        heads = q.reshape(R, Hkv, H // Hkv, D).float()  # query heads by the key/value head that they share
        out = paged_decode(
            heads, cache.slots[layer], batch.page_table, batch.context_lens[:R], cache.page_size, scale,
            BLOCK, BLOCKS_A_SPLIT, plan.window,
        )  # fmt: skip
        return out.to(q.dtype).view(R, H * D)


@dataclass
class Windowed:
    """All that decode needs to know of a layer: how many requests there are, and its window."""

    num_requests: int
    window: int | None
    queries: int = 1

    def within(self, window: int, _batch: Any) -> "Windowed":
        return Windowed(self.num_requests, window)
