"""Keys and values put into a paged cache by hand, for tests of what reads them."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from minillm.attention.backend import AttentionBackend, AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.kernels.cpu import kernels as cpu
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kernels.triton import load as triton_load
from minillm.kvcache.storage import KVCache, KVSpec

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def all_kernels(dtype: torch.dtype = torch.float32) -> list[TorchKernels]:
    """The kernels that there are here: torch's, the compiled ones where there is a compiler, and Triton's in a process
    where they are interpreted (tests/kernels/test_triton.py starts one)."""
    kernels: list[TorchKernels | None] = [TorchKernels(), cpu.load(dtype)]
    if INTERPRETED:
        kernels.append(triton_load.load(torch.device("cpu"), dtype)[0])
    return [one for one in kernels if one]


def make_shape(
    H: int, Hkv: int, D: int, windows: Sequence[int | None] = (None, None), scale: float | None = None,
    dtype: torch.dtype = torch.float32, device: str = "cpu",
) -> AttentionShape:  # fmt: skip
    """A model's attention, a layer for each of ``windows``."""
    kv = KVSpec(len(windows), Hkv, D, dtype)
    return AttentionShape(H, D**-0.5 if scale is None else scale, tuple(windows), dtype, torch.device(device), kv)


def make_cache(shape: AttentionShape, num_pages: int, page_size: int) -> KVCache:
    return KVCache(shape.kv, num_pages, page_size, shape.device)


def store(cache: KVCache, layer: int, slots: Tensor, kv: Tensor, kernels: TorchKernels | None = None) -> None:
    """Write ``kv [T, 2 * Hkv * D]`` to ``slots [T]``, through the kernel that stores, without turning the keys."""
    into = cache[layer]
    Hkv, D = into.num_kv_heads, into.head_dim
    qkv = torch.cat([torch.randn(len(kv), D).to(kv.dtype), kv], dim=1)  # one query head, which is turned and left alone
    cos, sin = torch.ones(len(kv), D, dtype=kv.dtype), torch.zeros(len(kv), D, dtype=kv.dtype)
    (kernels or TorchKernels()).rotate_and_store(qkv, cos, sin, into.slots, slots, 1, Hkv)


def make_batch(
    cache: KVCache, lengths: Sequence[tuple[int, int]], table: Tensor, backend: AttentionBackend
) -> ForwardBatch:
    """A step of (context, queries) requests over the pages in ``table [R, pages]``; those with one query come first."""
    some = torch.zeros(sum(count for _, count in lengths), dtype=torch.int64, device=table.device)
    contexts, counts = [context for context, _ in lengths], [count for _, count in lengths]
    return ForwardBatch(some, some, some, table, contexts, counts, counts.count(1), None, cache, backend)


def shuffled_pages(cache: KVCache, lengths: Sequence[tuple[int, int]], seed: int, spare: int = 0) -> Tensor:
    """``[R, pages]``: a page table for (context, queries) requests, whose pages lie anywhere, zeros after each one's;
    ``spare`` columns of zeros at the end."""
    S, random = cache.page_size, torch.Generator().manual_seed(seed)
    needed = [-(-context // S) for context, _ in lengths]
    free = torch.randperm(cache.num_pages, generator=random)[: sum(needed)].split(needed)
    table = torch.zeros(len(lengths), max(needed) + spare, dtype=torch.int64)
    for row, own in zip(table, free):
        row[: len(own)] = own
    return table.to(cache.device)
