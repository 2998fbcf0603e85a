"""The interface of an attention backend, and the choice of one."""

import sys
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from torch import Tensor

from minillm.attention.batch import ForwardBatch
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kernels.triton.load import interpreted
from minillm.kvcache.storage import KVCache
from minillm.probe import probe


class AttentionBackend(ABC):
    """Attention of a step's new tokens over all cached tokens of their requests."""

    name: str
    recordable: tuple[str, ...] = ()  # types of devices on which decode steps can be recorded, with a `fixed_plan`
    reason = ""  # why this one was chosen, in words

    @abstractmethod
    def prepare(self, batch: ForwardBatch) -> Any:
        """Once a step, before the first layer: work out what all layers share. Kept in ``batch.plan``."""

    @abstractmethod
    def attend(self, layer: int, q: Tensor, batch: ForwardBatch, scale: float, window: int | None = None) -> Tensor:
        """``q [T, H, D]`` -> ``[T, H * D]``. The step's own keys and values are in the cache already.

        With a sliding window (Beltagy et al. 2020) a token looks at itself and the ``window - 1`` tokens before it.
        """

    def fixed_plan(self, lengths: Tensor, split_blocks: Tensor, kv_cache: KVCache) -> Any:
        """A plan for a step that is recorded once and replayed: R requests with one token each, whose contexts have as
        many tokens as stand in ``lengths [R]`` when it is replayed, 0 for a row that is nobody's.

        split_blocks [1]: what `blocks_a_split` said of those lengths.
        """
        raise NotRecordable(f"attention_backend {self.name!r} has no plan that holds for every decode step")

    def most_fixed_rows(self, pages: int, kv_cache: KVCache) -> int:
        """How large a step with a `fixed_plan` may be where page tables have so many ``pages``: of any size."""
        return sys.maxsize

    def blocks_a_split(self, lengths: np.ndarray, size: int, kv_cache: KVCache) -> int:
        """What a `fixed_plan` of ``size`` rows must be told of ``lengths [R]`` before each replay: nothing here."""
        return 0


class NotRecordable(RuntimeError):
    """Something in a step cannot be recorded; the text says what, and what to do."""


def choose_backend(
    name: str, kernels: TorchKernels, cache: KVCache | None = None, num_heads: int | None = None
) -> AttentionBackend:
    """The backend called ``name``; "auto" takes the fastest for the kernels that there are, and the probe says why.

    "auto" with Triton's kernels takes the flash-attn package where Triton's attention cannot be had, or the reference.
    cache, num_heads: what it will work on, so that one that cannot is found out now. ValueError if it was asked for by
    name.
    """
    from minillm.attention.flash import choose_flash
    from minillm.attention.reference import ReferenceAttention

    backend: AttentionBackend | None = None
    reason = "asked for" if name != "auto" else f"the fastest that goes with {kernels.name} kernels"
    wanted = name if name != "auto" else kernels.name
    if wanted in ("cpu", "triton") and kernels.name != wanted and not (wanted == "triton" and interpreted()):
        raise ValueError(
            f"attention_backend {name!r} needs kernels={name!r}, but the kernels are {kernels.name!r}; use 'reference'"
        )
    if name == "flash":
        backend, why = choose_flash(kernels, cache, num_heads)
        if backend is None:
            raise ValueError(
                f"attention_backend is 'flash', but it cannot be had here: {why}; 'auto' takes what works here"
            )
    elif wanted == "cpu":
        from minillm.attention.cpu import CpuAttention

        backend = CpuAttention(kernels)  # type: ignore[arg-type]
    elif wanted == "blockwise":
        from minillm.attention.blockwise import BlockwiseAttention

        backend = BlockwiseAttention()
    elif wanted == "triton":
        from minillm.attention.triton import TritonAttention

        why_not = TritonAttention.refusal(cache, num_heads) if cache is not None and num_heads else None
        if why_not and name == "triton":
            raise ValueError(f"attention_backend is 'triton', but it cannot be had here: {why_not}; use 'reference'")
        if why_not:
            backend, flash = choose_flash(kernels, cache, num_heads)
            reason = f"{why_not}; {flash}" if backend else f"{why_not}; nor can flash-attn be had: {flash}"
        else:
            backend = TritonAttention()
    backend = backend or ReferenceAttention()
    backend.reason = reason or ""
    probe.on and probe("attention.choose", backend=backend, kernels=kernels, reason=reason)
    return backend
