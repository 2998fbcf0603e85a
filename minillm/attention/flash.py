"""Attention by the flash-attn package: the best-known kernels (Dao 2023; Shah et al. 2024), over our pages.

Two packages are understood. FlashAttention-2 (``flash_attn``) has one function for requests with one token and another
for all others, and wants pages of a multiple of 256 tokens. FlashAttention-3 (``flash_attn_interface``, for Hopper) has
one for both, and takes pages of any size. Both read keys and values where they lie: a layer's cache is to them two
tensors ``[P, S, Hkv, D]`` whose rows do not touch.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillm.attention.backend import AttentionBackend, AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.attention.try_out import try_out
from minillm.kernels.to_device import to_device
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kvcache.storage import KVCache

DTYPES = (torch.float16, torch.bfloat16)
MOST_HEAD_SIZE, HEAD_SIZE_STEP = 256, 8
NEEDED_GPU = (8, 0)  # compute capability of the first GPUs that these kernels were written for: Ampere
ANY = 2**31 - 1  # longer than any context


@dataclass
class FlashPlan:
    """A step as the package wants it; tensors are int32, on the device.

    lengths [R]: how many tokens each request sees. longest: the most of them. seen: by a layer's window, how many keys
    before a query it sees, and how many after it; -1 is all, and is the faster way to say so.
    table [R, pages]: each request's pages; None where the batch has it in int32 already.
    starts [R' + 1], key_starts [R' + 1]: of the R' requests with several tokens, how many queries, and how many tokens
    of context, all those before have together. most_queries: of one request; 0 if there is none with several.
    """

    lengths: Tensor
    longest: int
    seen: dict[int | None, tuple[int, int]]
    table: Tensor | None = None
    starts: Tensor | None = None
    key_starts: Tensor | None = None
    most_queries: int = 0


class FlashAttention(AttentionBackend):
    """FlashAttention-2."""

    name = "flash"
    module, title = "flash_attn", "flash-attn 2"
    table_name, page_step = "block_table", 256

    def __init__(self, shape: AttentionShape, package: ModuleType | None = None, recordable: bool = False) -> None:
        super().__init__(shape)
        self.package = package or import_module(self.module)
        self.recordable = ("cuda",) if recordable else ()

    def prepare(self, batch: ForwardBatch) -> FlashPlan:
        singles, R = batch.num_single, batch.num_requests
        lengths, counts = np.array(batch.context_lens), np.array(batch.query_lens[singles:], dtype=np.int64)
        packed = np.concatenate([lengths, [0], counts.cumsum(), [0], lengths[singles:].cumsum()]).astype(np.int32)
        numbers = to_device(packed, batch.page_table.device)  # one copy for all three
        on_device, starts, key_starts = numbers.split([R, R - singles + 1, R - singles + 1])
        most, longest = max(batch.query_lens[singles:], default=0), int(lengths.max())
        return FlashPlan(on_device, longest, self._seen(longest), batch.page_table.int(), starts, key_starts, most)

    def fixed_plan(self, batch: ForwardBatch, lengths: Tensor, split_blocks: Tensor) -> FlashPlan:
        """A plan for any step of as many single tokens as ``lengths [R]`` has, for a CUDA graph. Into how many splits a
        context is cut, the package tells from the page table's width."""
        return FlashPlan(lengths, ANY, self._seen(ANY))

    def _seen(self, longest: int) -> dict[int | None, tuple[int, int]]:
        return {
            window: (-1, -1) if window is None or window >= longest else (window - 1, 0) for window in self.shape.kinds
        }

    def attend(self, layer: int, q: Tensor, batch: ForwardBatch) -> Tensor:
        """``q [T, H, D]`` -> ``[T, H * D]``."""
        T, H, D = q.shape
        plan, singles, kv = batch.plan, batch.num_single, batch.kv_cache[layer]
        k, v = kv.keys, kv.values
        table = batch.page_table if plan.table is None else plan.table
        seen = plan.seen[self.shape.windows[layer]]
        common = {"softmax_scale": self.shape.scale, "causal": True, "window_size": seen}
        parts = []
        if singles:
            pages = {self.table_name: table[:singles]}
            one_each, lengths = q[:singles, None], plan.lengths[:singles]  # [R, 1, H, D]
            out = self.package.flash_attn_with_kvcache(one_each, k, v, cache_seqlens=lengths, **pages, **common)
            parts.append(out.reshape(singles, H, D))
        if singles < T:
            parts.append(self._several(q[singles:], k, v, plan, table[singles:], singles, common))
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(T, H * D)

    def _several(
        self, q: Tensor, k: Tensor, v: Tensor, plan: FlashPlan, table: Tensor, singles: int, common: dict[str, Any]
    ) -> Tensor:
        """The R' requests with several queries, the last of their contexts, over pages ``k, v [P, S, Hkv, D]``:
        ``q [T', H, D]``, ``table [R', pages]`` -> ``[T', H, D]``."""
        return self.package.flash_attn_varlen_func(
            q, k, v, plan.starts, plan.key_starts, plan.most_queries, plan.longest, block_table=table, **common
        )

    @classmethod
    def refusal(cls, shape: AttentionShape, kv_cache: KVCache) -> str | None:
        """Why this version cannot work on this cache; None where it can, which a first run has shown."""
        if kv_cache.page_size % cls.page_step:
            step = cls.page_step
            return (
                f"page_size is {kv_cache.page_size}, and {cls.title} needs a multiple of {step}; set page_size={step}"
            )
        try:
            try_out(cls(shape), kv_cache)
        except Exception as error:  # a package that was built for another torch or GPU fails in its own way
            lines = str(error).strip().splitlines() or [""]
            return f"{cls.title} failed on this machine: {type(error).__name__}: {lines[0]}"
        return None


class FlashAttention3(FlashAttention):
    """FlashAttention-3: what differs."""

    module, title = "flash_attn_interface", "FlashAttention-3"
    table_name, page_step = "page_table", 1

    def _several(
        self, q: Tensor, k: Tensor, v: Tensor, plan: FlashPlan, table: Tensor, singles: int, common: dict[str, Any]
    ) -> Tensor:
        """``q [T', H, D]``, ``table [R', pages]`` -> ``[T', H, D]``."""
        return self.package.flash_attn_with_kvcache(
            q, k, v, cache_seqlens=plan.lengths[singles:], page_table=table, cu_seqlens_q=plan.starts,
            max_seqlen_q=plan.most_queries, **common,
        )  # fmt: skip


def load(shape: AttentionShape, kernels: TorchKernels, cache: KVCache) -> tuple[FlashAttention | None, str]:
    """The newest version that works on this cache, and its name; or None, and why none does, with what to do."""
    if why := unfit(shape.device, shape.dtype, shape.head_dim):
        return None, why
    found = [version for version in (FlashAttention3, FlashAttention) if find_spec(version.module)]
    if not found:
        return None, "the package flash-attn is not installed; pip install flash-attn --no-build-isolation"
    refusals = []
    for version in found:
        refused = version.refusal(shape, cache)
        if refused is None:  # graphs also need a kernel of Triton's, which draws their tokens
            return version(shape, recordable=kernels.name == "triton"), f"{version.title} can be had"
        refusals.append(refused)
    return None, "; ".join(refusals)


def unfit(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why no version can work, whatever is installed; None where one may."""
    if device.type != "cuda":
        return f"it needs device='cuda', and this is {device}"
    if torch.cuda.is_available() and (gpu := torch.cuda.get_device_capability(device)) < NEEDED_GPU:
        return f"it needs a GPU of compute capability 8.0 or above, and this one has {gpu[0]}.{gpu[1]}"
    if dtype not in DTYPES:
        given = str(dtype).removeprefix("torch.")
        return f"dtype is {given}, and it computes in float16 and bfloat16; set dtype='bfloat16'"
    if head_dim > MOST_HEAD_SIZE or head_dim % HEAD_SIZE_STEP:
        sizes = f"multiples of {HEAD_SIZE_STEP} up to {MOST_HEAD_SIZE}"
        return f"the model's heads have {head_dim} numbers, and it takes {sizes}"
    return None
