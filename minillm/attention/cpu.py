"""Attention on a CPU: decode reads the pages where they lie, with a compiled kernel; prompts are gathered."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minillm.attention.backend import AttentionBackend, AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.attention.gather import GatherAttention
from minillm.kernels.cpu.kernels import CpuKernels
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kvcache.storage import KVCache


@dataclass
class InPlace:
    """What the kernel needs to read the one-token requests' pages where they are. With a window, it starts reading
    where that starts."""

    context_lens: Tensor  # [R] int64
    queries = 1

    @property
    def num_requests(self) -> int:
        return len(self.context_lens)


class CpuAttention(GatherAttention):
    name = "cpu"
    gathers = False

    def __init__(self, shape: AttentionShape, kernels: CpuKernels) -> None:
        super().__init__(shape)
        self.kernels = kernels

    def plan_singles(self, batch: ForwardBatch, first: int = 0, last: int | None = None) -> InPlace:
        return InPlace(torch.tensor(batch.context_lens[first : last or batch.num_single]))

    def fixed_plan(self, batch: ForwardBatch, lengths: Tensor, split_blocks: Tensor) -> list[Any]:
        return [InPlace(lengths.long())]

    def most_fixed_rows(self, tokens: int, kv_cache: KVCache) -> int:
        return AttentionBackend.most_fixed_rows(self, tokens, kv_cache)  # nothing is gathered

    def decode(self, layer: int, q: Tensor, batch: ForwardBatch, plan: InPlace) -> Tensor:
        kv, shape = batch.kv_cache[layer], self.shape
        return self.kernels.paged_decode(
            q, kv.slots, batch.page_table, plan.context_lens, kv.page_size, shape.num_kv_heads, shape.scale,
            shape.windows[layer],
        )  # fmt: skip


def load(shape: AttentionShape, kernels: TorchKernels, cache: KVCache) -> tuple[CpuAttention | None, str]:
    if not isinstance(kernels, CpuKernels):
        return None, f"its kernels are the CPU's, and here they are {kernels.name!r}"
    return CpuAttention(shape, kernels), "compiled for this CPU"
