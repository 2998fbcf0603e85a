"""Where keys and values live: `KVSpec` says how large, `KVLayer` is a layer's memory, `KVCache` all layers'."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from minillm.model_config import ModelConfig

# Small types hold a number as `stored * scale`: the largest number of each. Others hold it as it is.
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
LEAST_SCALE = 1e-6  # for a head of zeros, or nearly


@dataclass(frozen=True)
class KVSpec:
    """What a rank keeps of each token: ``num_kv_heads`` keys and values (this rank's heads) of ``head_dim`` numbers a
    layer, and of small types a scale (float32) for each of them."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @classmethod
    def of(cls, config: ModelConfig, num_kv_heads: int, dtype: torch.dtype) -> "KVSpec":
        """For a model of which this rank has ``num_kv_heads`` in every layer."""
        return cls(config.num_hidden_layers, num_kv_heads, config.head_dim, dtype)

    @property
    def scaled(self) -> bool:
        return self.dtype in LARGEST

    @property
    def bytes_per_token(self) -> int:
        """``2 * L * Hkv * D * itemsize``: its keys and values in all layers; and ``2 * L * Hkv`` scales, if any."""
        heads = 2 * self.num_layers * self.num_kv_heads
        return heads * (self.head_dim * self.dtype.itemsize + self.scaled * torch.float32.itemsize)

    def page_bytes(self, page_size: int) -> int:
        """Bytes of a page of ``page_size`` tokens, over all layers."""
        return page_size * self.bytes_per_token


class KVLayer:
    """One layer's keys and values, ``tensor [P, S, 2, Hkv, D]``; the 2 is key or value.

    A token's key and value lie side by side, so that storing them is one copy and a page is one piece of memory.

    scales [P, S, 2, Hkv]: what is stored, times its head's scale, is what was meant; None where it is stored as it is.
    slots [P * S, 2 * Hkv * D]: a row a slot. keys, values [P, S, Hkv, D]: rows do not touch. These are views made once,
    because making one costs as much as a small kernel.
    """

    def __init__(self, tensor: Tensor, scales: Tensor | None = None) -> None:
        self.tensor, self.scales = tensor, scales
        self.num_pages, self.page_size, _, self.num_kv_heads, self.head_dim = tensor.shape
        self.dtype, self.device = tensor.dtype, tensor.device
        self.slots = tensor.view(self.num_pages * self.page_size, -1)
        self.keys, self.values = tensor.unbind(2)

    def store(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """``keys, values [T, Hkv, D]`` into ``slots [T]``. (Kernels that turn keys store them in the same launch.)"""
        kv = torch.stack([keys, values], dim=1).float()  # [T, 2, Hkv, D]
        if self.scales is not None:
            scales = (kv.abs().amax(dim=-1) / LARGEST[self.dtype]).clamp(min=LEAST_SCALE)  # [T, 2, Hkv]
            self.scales.flatten(0, 1)[slots] = scales
            kv = kv / scales[..., None]
            if self.dtype == torch.int8:
                kv = (kv.abs() + 0.5).floor().copysign(kv)  # halves away from zero, as kernels do
        self.slots[slots] = kv.flatten(1).to(self.dtype)

    def read(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of ``slots [n]``, ``[n, Hkv, D]`` each, in float32: as they were meant, whatever the type."""
        kv = self.slots[slots].view(-1, 2, self.num_kv_heads, self.head_dim).float()
        if self.scales is not None:
            kv = kv * self.scales.flatten(0, 1)[slots][..., None]
        return kv[:, 0], kv[:, 1]

    @property
    def num_bytes(self) -> int:
        return self.tensor.nbytes + (self.scales.nbytes if self.scales is not None else 0)

    @property
    def page_bytes(self) -> int:
        return self.num_bytes // self.num_pages

    def __repr__(self) -> str:
        scaled = " with a scale a head" if self.scales is not None else ""
        return (
            f"KVLayer([P={self.num_pages}, S={self.page_size}, 2, Hkv={self.num_kv_heads}, D={self.head_dim}] "
            f"{str(self.dtype).removeprefix('torch.')}{scaled}, {self.num_bytes / 2**20:.1f} MiB)"
        )


class KVCache:
    """The layers of a model, all in one piece of memory, ``tensor [L, P, S, 2, Hkv, D]``."""

    def __init__(self, spec: KVSpec, num_pages: int, page_size: int, device: torch.device) -> None:
        self.spec, self.num_pages, self.page_size = spec, num_pages, page_size
        shape = (spec.num_layers, num_pages, page_size, 2, spec.num_kv_heads, spec.head_dim)
        self.tensor = _zeros(shape, spec.dtype, device)
        self.scales = _zeros(shape[:-1], torch.float32, device) if spec.scaled else None
        self.layers = [
            KVLayer(tensor, None if self.scales is None else self.scales[i]) for i, tensor in enumerate(self.tensor)
        ]

    def __getitem__(self, layer: int) -> KVLayer:
        return self.layers[layer]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[KVLayer]:
        return iter(self.layers)

    @property
    def num_bytes(self) -> int:
        return self.tensor.nbytes + (self.scales.nbytes if self.scales is not None else 0)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def __repr__(self) -> str:
        return f"KVCache({list(self.tensor.shape)} {self.tensor.dtype}, {self.num_bytes / 2**20:.1f} MiB)"


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, because attention multiplies what it masks by zero, and uninitialised memory may hold NaN."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy asks the system for zeroed memory, which costs nothing until it is written; torch would write it all now.
    return torch.from_numpy(np.zeros(prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)
