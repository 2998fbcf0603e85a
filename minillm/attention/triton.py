"""Attention on a GPU, in at most two launches a layer: one for all requests with one token, one for all others.

Nothing here waits for the GPU: what the kernels need to know of a step goes there once, before the first layer.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from minillm.attention.backend import AttentionBackend
from minillm.attention.batch import ForwardBatch
from minillm.attention.try_out import try_out
from minillm.kernels.triton.attention import MOST_SPLITS, Scratch, Tile, decode_tile, paged_decode
from minillm.kernels.triton.load import failed
from minillm.kernels.triton.prefill import paged_prefill, prefill_tile
from minillm.kvcache.storage import KVCache

MOST_HEAD_SIZE = 256
PROGRAMS_A_PROCESSOR = 4  # so many programs on each of the GPU's processors read memory as fast as it goes


@dataclass
class TritonPlan:
    """A step as the kernels want it; tensors are int32, on the device.

    lengths [R'], split_blocks [1], splits, tile: see `paged_decode`, for the R' requests with one token.
    blocks [B, 4] and their tile: see `paged_prefill`, for all others.
    The last two are None until the first layer, which shows how many query heads there are. A CUDA graph that was
    captured with a plan holds on to it, and so to the memory that its kernels write.
    """

    lengths: Tensor
    split_blocks: Tensor
    splits: int
    tile: Tile
    scratch: Scratch | None = None
    blocks: tuple[Tensor, Tile] | None = None


class TritonAttention(AttentionBackend):
    """Both kernels, and the memory in which splits of a context meet."""

    name = "triton"
    recordable = ("cuda",)

    def __init__(self) -> None:
        self._scratch: Scratch | None = None

    @staticmethod
    def refusal(kv_cache: KVCache, num_heads: int) -> str | None:
        """Why these kernels cannot work on this cache; None where they can, which a first run has shown."""
        head_dim = kv_cache.tensor.shape[-1]
        if head_dim > MOST_HEAD_SIZE:
            return f"the model's heads have {head_dim} numbers, and its kernels take at most {MOST_HEAD_SIZE}"
        try:
            try_out(TritonAttention(), kv_cache, num_heads)
        except Exception as error:  # compilers raise whatever they like
            return failed("attention kernels", error)
        return None

    def prepare(self, batch: ForwardBatch) -> TritonPlan:
        kv, singles = batch.kv_cache.tensor, batch.num_single
        lengths, tile = np.array(batch.context_lens[:singles], dtype=np.int32), _tile_for(singles, kv)
        each, splits = plan_splits(lengths, kv.shape[-2], tile.tokens, programs_of(kv.device))
        # One copy for both. Three numbers between them, so that each begins at a multiple of 16 bytes in every step:
        # Triton compiles a kernel once more for an address that is none.
        packed = _to_device(np.append(np.array([each, 0, 0, 0], dtype=np.int32), lengths), kv.device)
        return TritonPlan(packed[4:], packed[:1], splits, tile)

    def fixed_plan(self, lengths: Tensor, split_blocks: Tensor, kv_cache: KVCache) -> TritonPlan:
        """A plan for any step of as many single tokens as ``lengths [R]`` has, for a CUDA graph: `blocks_a_split` says
        in each step how long a split is, and splits left over end at once."""
        R, kv = len(lengths), kv_cache.tensor
        return TritonPlan(lengths, split_blocks, _fixed_splits(R, kv), _tile_for(R, kv))

    def blocks_a_split(self, lengths: np.ndarray, size: int, kv_cache: KVCache) -> int:
        """For contexts of these ``lengths [R]`` in a `fixed_plan` of ``size`` rows."""
        kv = kv_cache.tensor
        block = _tile_for(size, kv).tokens
        each, _ = plan_splits(lengths, kv.shape[-2], block, programs_of(kv.device))
        return max(each, -(-int(lengths.max(initial=1)) // (block * _fixed_splits(size, kv))))

    def attend(self, layer: int, q: Tensor, batch: ForwardBatch, scale: float, window: int | None = None) -> Tensor:
        """``q [T, H, D]`` -> ``[T, H * D]``."""
        T, H, D = q.shape
        plan, kv, singles = batch.plan, batch.kv_cache, batch.num_single
        rows, Hkv = kv.slots[layer], kv.tensor.shape[-2]
        out = q.new_empty(T, H * D)
        if singles:
            if plan.scratch is None:
                plan.scratch = self._scratch_for(singles, H, Hkv, D, plan.splits, q.device)
            paged_decode(
                q[:singles], rows, batch.page_table, plan.lengths, plan.split_blocks, plan.splits, plan.tile,
                programs_of(q.device), plan.scratch, out, kv.page_size, Hkv, scale, window,
            )  # fmt: skip
        if singles < T:
            if plan.blocks is None:
                tile = prefill_tile(q.itemsize, D, H // Hkv, is_roomy(q.device))
                plan.blocks = _to_device(plan_blocks(batch, tile.rows // (H // Hkv)), q.device), tile
            blocks, tile = plan.blocks
            paged_prefill(q, rows, batch.page_table, blocks, tile, out, kv.page_size, Hkv, scale, window)
        return out

    def _scratch_for(self, R: int, H: int, Hkv: int, D: int, splits: int, device: torch.device) -> Scratch:
        """Kept from step to step, made anew when a step needs more."""
        parts = R * H * splits if splits > 1 else 1
        numbers, arrivals = parts * max(1 << (D - 1).bit_length(), 16), R * Hkv
        old = self._scratch
        if old is None or old.parts.numel() < numbers or len(old.tops) < parts or len(old.arrivals) < arrivals:
            floats = torch.empty(numbers + 2 * parts, dtype=torch.float32, device=device)
            shares = floats[:numbers], floats[numbers : numbers + parts], floats[numbers + parts :]
            self._scratch = old = Scratch(*shares, torch.zeros(arrivals, dtype=torch.int32, device=device))
        return old


def _tile_for(requests: int, kv: Tensor) -> Tile:
    """The decode tile for so many requests with one token, over a cache ``kv [..., Hkv, D]``."""
    Hkv, D = kv.shape[-2:]
    few = requests * Hkv * 2 * PROGRAMS_A_PROCESSOR <= programs_of(kv.device)
    return decode_tile(kv.itemsize, D, few and is_roomy(kv.device))


def _fixed_splits(size: int, kv: Tensor) -> int:
    """Into how many splits a context may be cut in a batch of ``size``: enough to make the GPU busy twice over, for
    some requests may be short."""
    wanted = max(-(-2 * programs_of(kv.device) // (size * kv.shape[-2])), 1)
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


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
