"""Attention on a CPU: decode reads the pages where they lie, with a compiled kernel; prompts go as in the reference."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minillm.attention.backend import AttentionBackend
from minillm.attention.batch import ForwardBatch
from minillm.attention.reference import Gather, ReferenceAttention
from minillm.kernels.cpu.kernels import CpuKernels
from minillm.kvcache.storage import KVCache


@dataclass
class InPlace:
    """What the kernel needs to read the one-token requests' pages where they are."""

    context_lens: Tensor  # [R] int64
    window: int | None = None
    queries = 1

    @property
    def num_requests(self) -> int:
        return len(self.context_lens)

    def within(self, window: int, _batch: ForwardBatch) -> "InPlace":
        """The same for layers with a sliding window: the kernel starts reading where it starts."""
        return replace(self, window=window)


class CpuAttention(ReferenceAttention):
    name = "cpu"
    gathers = False

    def __init__(self, kernels: CpuKernels) -> None:
        self.kernels = kernels

    def plan_singles(self, batch: ForwardBatch, first: int = 0, last: int | None = None) -> InPlace:
        return InPlace(torch.tensor(batch.context_lens[first : last or batch.num_single]))

    def fixed_plan(self, lengths: Tensor, split_blocks: Tensor, kv_cache: KVCache) -> dict[int | None, list[Any]]:
        return {None: [InPlace(lengths.long())]}

    def most_fixed_rows(self, pages: int, kv_cache: KVCache) -> int:
        return AttentionBackend.most_fixed_rows(self, pages, kv_cache)  # nothing is gathered

    def decode(self, layer: int, q: Tensor, batch: ForwardBatch, plan: "InPlace | Gather", scale: float) -> Tensor:
        assert isinstance(plan, InPlace)
        cache = batch.kv_cache
        rows, heads = cache.slots[layer], cache.tensor.shape[-2]
        return self.kernels.paged_decode(
            q, rows, batch.page_table, plan.context_lens, cache.page_size, heads, scale, plan.window
        )
