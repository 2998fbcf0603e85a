"""The tensors that hold keys and values."""

from math import prod

import numpy as np
import torch
from torch import Tensor

from minillm.model_config import ModelConfig


class KVCache:
    """Keys and values of all layers, one tensor ``[L, P, S, 2, Hkv, D]``; the 2 is key or value.

    A token's key and value lie side by side, so that storing them is one copy and a page is one piece of memory.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_pages: int,
        page_size: int,
        num_kv_heads: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (config.num_hidden_layers, num_pages, page_size, 2, num_kv_heads, config.head_dim)
        self.num_pages, self.page_size = num_pages, page_size
        self.tensor = _zeros(shape, dtype, device)
        # Seen as rows, one a slot. Views made once here, because making one costs as much as a small kernel.
        self.slots = [layer.view(num_pages * page_size, -1) for layer in self.tensor]  # [P * S, 2 * Hkv * D] a layer

    @property
    def num_bytes(self) -> int:
        return self.tensor.numel() * self.tensor.itemsize

    def layer(self, layer: int) -> Tensor:
        """``[P, S, 2, Hkv, D]``: one layer, as attention kernels take it."""
        return self.tensor[layer]

    def __repr__(self) -> str:
        return f"KVCache({list(self.tensor.shape)} {self.tensor.dtype}, {self.num_bytes / 2**20:.1f} MiB)"


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, because attention multiplies what it masks by zero, and uninitialised memory may hold NaN."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy asks the system for zeroed memory, which costs nothing until it is written; torch would write it all now.
    return torch.from_numpy(np.zeros(prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)
