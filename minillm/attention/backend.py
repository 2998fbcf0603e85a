"""The interface of an attention backend, and the choice of one."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from minillm.attention.batch import ForwardBatch
from minillm.debug.probes import probe
from minillm.kernels.torch_kernels import TorchKernels


class AttentionBackend(ABC):
    """Attention of a step's new tokens over all cached tokens of their requests."""

    name: str

    @abstractmethod
    def prepare(self, batch: ForwardBatch) -> Any:
        """Once a step, before the first layer: work out what all layers share. Kept in ``batch.plan``."""

    @abstractmethod
    def attend(self, layer: int, q: Tensor, batch: ForwardBatch, scale: float, window: int | None = None) -> Tensor:
        """``q [T, H, D]`` -> ``[T, H * D]``. The step's own keys and values are in the cache already.

        With a sliding window (Beltagy et al. 2020) a token looks at itself and the ``window - 1`` tokens before it.
        """


def choose_backend(name: str, kernels: TorchKernels) -> AttentionBackend:
    """The backend called ``name``; "auto" takes the fastest for the kernels that there are, and the probe says why."""
    from minillm.attention.cpu import CpuAttention
    from minillm.attention.reference import ReferenceAttention
    from minillm.kernels.cpu import CpuKernels

    compiled = isinstance(kernels, CpuKernels)
    if name == "cpu" and not compiled:
        raise ValueError(
            f"attention_backend 'cpu' needs kernels='cpu', but the kernels are {kernels.name!r}; use 'reference'"
        )
    backend: AttentionBackend = ReferenceAttention()
    if name in ("auto", "cpu") and isinstance(kernels, CpuKernels):
        backend = CpuAttention(kernels)
    reason = "asked for" if name != "auto" else f"the fastest that goes with {kernels.name} kernels"
    probe.on and probe("attention.choose", backend=backend, kernels=kernels, reason=reason)
    return backend
