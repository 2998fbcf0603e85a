"""Keys and values put into a paged cache by hand, for tests of what reads them."""

import os

import torch
from torch import Tensor

from minillm.kernels.cpu import kernels as cpu
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kernels.triton import load as triton_load
from minillm.kvcache.storage import KVCache

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def all_kernels(dtype: torch.dtype = torch.float32) -> list[TorchKernels]:
    """The kernels that there are here: torch's, the compiled ones where there is a compiler, and Triton's in a process
    where they are interpreted (tests/kernels/test_triton.py starts one)."""
    kernels: list[TorchKernels | None] = [TorchKernels(), cpu.load(dtype)]
    if INTERPRETED:
        kernels.append(triton_load.load(torch.device("cpu"), dtype)[0])
    return [one for one in kernels if one]


def store(cache: KVCache, layer: int, slots: Tensor, kv: Tensor, kernels: TorchKernels | None = None) -> None:
    """Write ``kv [T, 2 * Hkv * D]`` to ``slots [T]``, through the kernel that stores, without turning the keys."""
    Hkv, D = cache.tensor.shape[-2:]
    qkv = torch.cat([torch.randn(len(kv), D).to(kv.dtype), kv], dim=1)  # one query head, which is turned and left alone
    cos, sin = torch.ones(len(kv), D, dtype=kv.dtype), torch.zeros(len(kv), D, dtype=kv.dtype)
    (kernels or TorchKernels()).rotate_and_store(qkv, cos, sin, cache.slots[layer], slots, 1, Hkv)
