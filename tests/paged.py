"""Keys and values put into a paged cache by hand, for tests of what reads them."""

import torch
from torch import Tensor

from minillm.kernels import cpu
from minillm.kernels.torch_kernels import TorchKernels
from minillm.kvcache.storage import KVCache


def all_kernels(dtype: torch.dtype = torch.float32) -> list[TorchKernels]:
    """The kernels that there are here: torch's, and the compiled ones where there is a compiler."""
    compiled = cpu.load(dtype)
    return [TorchKernels(), *([compiled] if compiled else [])]


def store(cache: KVCache, layer: int, slots: Tensor, kv: Tensor, kernels: TorchKernels | None = None) -> None:
    """Write ``kv [T, 2 * Hkv * D]`` to ``slots [T]``, through the kernel that stores, without turning the keys."""
    Hkv, D = cache.tensor.shape[-2:]
    qkv = torch.cat([torch.randn(len(kv), D).to(kv.dtype), kv], dim=1)  # one query head, which is turned and left alone
    cos, sin = torch.ones(len(kv), D, dtype=kv.dtype), torch.zeros(len(kv), D, dtype=kv.dtype)
    (kernels or TorchKernels()).rotate_and_store(qkv, cos, sin, cache.slots[layer], slots, 1, Hkv)
