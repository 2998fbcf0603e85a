"""The interface of an attention backend, and the choice of one."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from minillm.attention.batch import ForwardBatch
from minillm.debug.probes import probe


class AttentionBackend(ABC):
    """Attention of a step's new tokens over all cached tokens of their requests."""

    name: str

    @abstractmethod
    def prepare(self, batch: ForwardBatch) -> Any:
        """Once a step, before the first layer: work out what all layers share. Kept in ``batch.plan``."""

    @abstractmethod
    def attend(self, layer: int, q: Tensor, batch: ForwardBatch, scale: float) -> Tensor:
        """``q [T, H, D]`` -> ``[T, H * D]``. The step's own keys and values are in the cache already."""


def choose_backend(name: str, device: torch.device) -> AttentionBackend:
    """The backend called ``name``; "auto" takes the fastest that works on ``device``, and says why."""
    from minillm.attention.reference import ReferenceAttention

    reason = (
        "asked for"
        if name != "auto"
        else f"the only one built so far; it runs anywhere torch does, here on {device.type}"
    )
    backend = ReferenceAttention()
    probe.on and probe("attention.choose", backend=backend, device=device, reason=reason)
    return backend
