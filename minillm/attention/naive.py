"""Attention as one would write it down: the oracle of every other backend. It runs anywhere, and slowly."""

import torch
from torch import Tensor

from minillm.attention.backend import AttentionBackend, AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kvcache.storage import KVCache


class NaiveAttention(AttentionBackend):
    """Request by request, head by head: all scores, their softmax, the sum of the values. In float32."""

    name = "naive"

    def prepare(self, batch: ForwardBatch) -> None:
        """Nothing is shared."""

    def attend(self, layer: int, q: Tensor, batch: ForwardBatch) -> Tensor:
        """``q [T, H, D]`` -> ``[T, H * D]``."""
        kv, window, out, row = batch.kv_cache[layer], self.shape.windows[layer], torch.empty_like(q), 0
        for request, (length, count) in enumerate(zip(batch.context_lens, batch.query_lens)):
            positions = torch.arange(length, device=q.device)  # [C]
            pages = batch.page_table[request, positions // kv.page_size].long()
            keys, values = kv.read(pages * kv.page_size + positions % kv.page_size)  # [C, Hkv, D] each
            own = positions[length - count :, None]  # [n, 1]: the last tokens of the context are this step's
            hidden = positions > own if window is None else (positions > own) | (positions <= own - window)  # [n, C]
            for head in range(self.shape.num_heads):
                k, v = keys[:, head // self.shape.group], values[:, head // self.shape.group]
                scores = q[row : row + count, head].float() @ k.T * self.shape.scale  # [n, C]
                out[row : row + count, head] = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1) @ v
            row += count
        return out.flatten(1)


def load(shape: AttentionShape, kernels: TorchKernels, cache: KVCache) -> tuple[NaiveAttention, str]:
    return NaiveAttention(shape), "it runs anywhere"
