"""Attention on a GPU, in at most two launches a layer: one for all requests with one token, one for all others.

Nothing here waits for the GPU: what the kernels need to know of a step goes there once, before the first layer.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from minillm.attention.backend import AttentionBackend, AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.attention.try_out import try_out
from minillm.kernels.to_device import to_device
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kernels.triton.attention import MOST_SPLITS, Scratch, Tile, decode_tile, paged_decode
from minillm.kernels.triton.load import failed
from minillm.kernels.triton.prefill import paged_prefill, prefill_tile
from minillm.kvcache.storage import KVCache

MOST_HEAD_SIZE = 256
PROGRAMS_A_PROCESSOR = 4  # so many programs on each of the GPU's processors read memory as fast as it goes
ALIGNED = 4  # numbers: Triton compiles a kernel once more for an address that is no multiple of 16 bytes


@dataclass
class TritonPlan:
    """A step as the kernels want it; tensors are int32, on the device.

    lengths [R'], split_blocks [1], splits, tile, scratch: see `paged_decode`, for the R' requests with one token.
    blocks [B, 4]: see `paged_prefill`, for all others; None if there are none. A CUDA graph that was captured with a
    plan holds on to it, and so to the memory that its kernels write.
    """

    lengths: Tensor
    split_blocks: Tensor
    splits: int
    tile: Tile
    scratch: Scratch
    blocks: Tensor | None = None


class TritonAttention(AttentionBackend):
    """Both kernels, and the memory in which splits of a context meet."""

    name = "triton"
    recordable = ("cuda",)

    def __init__(self, shape: AttentionShape) -> None:
        super().__init__(shape)
        self.programs, self.roomy = programs_of(shape.device), is_roomy(shape.device)
        self.prefill_tile = prefill_tile(shape.dtype.itemsize, shape.head_dim, shape.group, self.roomy)
        self.scratch = self._new_scratch(1, 1)

    @staticmethod
    def refusal(shape: AttentionShape, kv_cache: KVCache) -> str | None:
        """Why these kernels cannot work on this cache; None where they can, which a first run has shown."""
        if shape.head_dim > MOST_HEAD_SIZE:
            return f"the model's heads have {shape.head_dim} numbers, and its kernels take at most {MOST_HEAD_SIZE}"
        try:
            try_out(TritonAttention(shape), kv_cache)
        except Exception as error:  # compilers raise whatever they like
            return failed("attention kernels", error)
        return None

    def prepare(self, batch: ForwardBatch) -> TritonPlan:
        singles, device = batch.num_single, self.shape.device
        lengths, tile = np.array(batch.context_lens[:singles], dtype=np.int32), self._tile_for(singles)
        each, splits = plan_splits(lengths, self.shape.num_kv_heads, tile.tokens, self.programs)
        start = ALIGNED + -(-singles // ALIGNED) * ALIGNED
        several = singles < batch.num_requests
        blocks = plan_blocks(batch, self.prefill_tile.rows // self.shape.group) if several else np.empty(0, np.int32)
        packed = np.zeros(start + blocks.size, dtype=np.int32)  # one copy for all three
        packed[0], packed[ALIGNED : ALIGNED + singles], packed[start:] = each, lengths, blocks.reshape(-1)
        numbers = to_device(packed, device)
        plan = self.plan_decode(numbers[ALIGNED : ALIGNED + singles], numbers[:1], splits, tile)
        plan.blocks = numbers[start:].view(-1, 4) if several else None
        return plan

    def fixed_plan(self, batch: ForwardBatch, lengths: Tensor, split_blocks: Tensor) -> TritonPlan:
        """A plan for any step of as many single tokens as ``lengths [R]`` has, for a CUDA graph: `blocks_a_split` says
        in each step how long a split is, and splits left over end at once."""
        R = len(lengths)
        return self.plan_decode(lengths, split_blocks, self._fixed_splits(R), self._tile_for(R))

    def plan_decode(self, lengths: Tensor, split_blocks: Tensor, splits: int, tile: Tile) -> TritonPlan:
        """A plan for requests with one token, and memory for their splits: kept from step to step, made anew when a
        step needs more."""
        R, old = len(lengths), self.scratch
        parts, arrivals = R * self.shape.num_heads * splits if splits > 1 else 1, R * self.shape.num_kv_heads
        if len(old.tops) < parts or len(old.arrivals) < arrivals:
            self.scratch = self._new_scratch(max(parts, len(old.tops)), max(arrivals, len(old.arrivals)))
        return TritonPlan(lengths, split_blocks, splits, tile, self.scratch)

    def _new_scratch(self, parts: int, arrivals: int) -> Scratch:
        device, numbers = self.shape.device, parts * max(1 << (self.shape.head_dim - 1).bit_length(), 16)
        floats = torch.empty(numbers + 2 * parts, dtype=torch.float32, device=device)
        shares = floats[:numbers], floats[numbers : numbers + parts], floats[numbers + parts :]
        return Scratch(*shares, torch.zeros(arrivals, dtype=torch.int32, device=device))

    def blocks_a_split(self, lengths: np.ndarray, size: int) -> int:
        """For contexts of these ``lengths [R]`` in a `fixed_plan` of ``size`` rows."""
        block = self._tile_for(size).tokens
        each, _ = plan_splits(lengths, self.shape.num_kv_heads, block, self.programs)
        return max(each, -(-int(lengths.max(initial=1)) // (block * self._fixed_splits(size))))

    def attend(self, layer: int, q: Tensor, batch: ForwardBatch) -> Tensor:
        """``q [T, H, D]`` -> ``[T, H * D]``."""
        T, H, D = q.shape
        plan, kv, singles, shape = batch.plan, batch.kv_cache[layer], batch.num_single, self.shape
        how = kv.page_size, shape.num_kv_heads, shape.scale, shape.windows[layer]
        out = q.new_empty(T, H * D)
        if singles:
            paged_decode(
                q[:singles], kv.slots, batch.page_table, plan.lengths, plan.split_blocks, plan.splits, plan.tile,
                self.programs, plan.scratch, out, *how,
            )  # fmt: skip
        if plan.blocks is not None:
            paged_prefill(q, kv.slots, batch.page_table, plan.blocks, self.prefill_tile, out, *how)
        return out

    def _tile_for(self, requests: int) -> Tile:
        """The decode tile for so many requests with one token."""
        few = requests * self.shape.num_kv_heads * 2 * PROGRAMS_A_PROCESSOR <= self.programs
        return decode_tile(self.shape.dtype.itemsize, self.shape.head_dim, few and self.roomy)

    def _fixed_splits(self, size: int) -> int:
        """Into how many splits a context may be cut in a batch of ``size``: enough to make the GPU busy twice over, for
        some requests may be short."""
        wanted = max(-(-2 * self.programs // (size * self.shape.num_kv_heads)), 1)
        return MOST_SPLITS if size <= 8 else min(1 << (wanted - 1).bit_length(), MOST_SPLITS)


def plan_splits(lengths: np.ndarray, num_kv_heads: int, block: int, programs: int) -> tuple[int, int]:
    """How many blocks of ``block`` tokens a split takes, and into how many splits the longest context is cut.

    lengths [R]. As many programs get work as make the GPU busy, and none has much more of it than the others. But a
    split costs something where its part is put together with the others': about a sixteenth of a block.
    """
    if not len(lengths):
        return 1, 1
    blocks = -(-lengths // block)
    longest = int(blocks.max())
    shared = -(-int(blocks.sum()) * num_kv_heads // programs)
    each = max(shared, -(-longest // MOST_SPLITS), round((longest / 16) ** 0.5), 1)
    splits = max(-(-longest // each), 1)
    return each, 1 << (splits - 1).bit_length()  # a power of two: fewer variants to compile; those too many end at once


def plan_blocks(batch: ForwardBatch, tokens: int) -> np.ndarray:
    """``[B, 4]``: blocks of up to ``tokens`` queries of the requests with several, as `paged_prefill` wants them."""
    singles = batch.num_single
    counts = np.array(batch.query_lens[singles:])
    before = np.array(batch.context_lens[singles:]) - counts  # [R'] tokens computed in earlier steps
    starts = singles + np.cumsum(counts) - counts  # [R'] where each request's tokens begin in [T]
    pieces = -(-counts // tokens)  # [R'] blocks of each
    request = np.repeat(np.arange(len(counts)), pieces)  # [B]
    first = (np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * tokens  # [B] within its request
    place, count = before[request] + first, np.minimum(counts[request] - first, tokens)
    blocks = np.stack([singles + request, starts[request] + first, place, count], axis=1).astype(np.int32)
    return blocks[np.argsort(-place, kind="stable")]  # those that see most first, so that none is late at the end


@cache
def programs_of(device: torch.device) -> int:
    """How many programs make the device busy."""
    if device.type != "cuda":
        return PROGRAMS_A_PROCESSOR
    return torch.cuda.get_device_properties(device).multi_processor_count * PROGRAMS_A_PROCESSOR


@cache
def is_roomy(device: torch.device) -> bool:
    """Whether its processors have the shared memory for the larger tiles: data centre GPUs do, most others do not."""
    if device.type != "cuda":
        return True
    properties = torch.cuda.get_device_properties(device)
    return getattr(properties, "shared_memory_per_block_optin", 0) >= 160 * 1024


def load(shape: AttentionShape, kernels: TorchKernels, cache: KVCache) -> tuple[TritonAttention | None, str]:
    why_not = TritonAttention.refusal(shape, cache)
    return (None, why_not) if why_not else (TritonAttention(shape), "Triton's kernels")
