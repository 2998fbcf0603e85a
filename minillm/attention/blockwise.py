"""Attention as the GPU's decode kernel does it, in plain torch, for looking. Prompts are gathered."""

from dataclasses import dataclass

from torch import Tensor

from minillm.attention.backend import AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.attention.gather import GatherAttention
from minillm.kernels.torch.attention import paged_decode
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kvcache.storage import KVCache

BLOCK = 16  # tokens that are looked at together
BLOCKS_A_SPLIT = 4


@dataclass
class Singles:
    """Requests with one token: decode needs no plan, only their number."""

    num_requests: int
    queries = 1


class BlockwiseAttention(GatherAttention):
    """Decode reads pages where they lie, a block at a time, in splits of so many blocks."""

    name = "blockwise"
    gathers = False
    recordable: tuple[str, ...] = ()

    def plan_singles(self, batch: ForwardBatch, first: int = 0, last: int | None = None) -> Singles:
        return Singles(batch.num_single)

    def decode(self, layer: int, q: Tensor, batch: ForwardBatch, plan: Singles) -> Tensor:
        """One query a request: ``q [R, H, D]`` -> ``[R, H * D]``. Sums are kept in float32, as in the kernel."""
        kv, (R, H, D) = batch.kv_cache[layer], q.shape
        heads = q.reshape(R, kv.num_kv_heads, -1, D).float()  # query heads by the key/value head that they share
        out = paged_decode(
            heads, kv.slots, batch.page_table, batch.context_lens[:R], kv.page_size, self.shape.scale,
            BLOCK, BLOCKS_A_SPLIT, self.shape.windows[layer],
        )  # fmt: skip
        return out.to(q.dtype).view(R, H * D)


def load(shape: AttentionShape, kernels: TorchKernels, cache: KVCache) -> tuple[BlockwiseAttention, str]:
    return BlockwiseAttention(shape), "the GPU's kernel in plain torch, for looking"
