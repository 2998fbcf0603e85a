"""The interface of an attention backend. Which one an engine gets: choose.py."""

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from minillm.kvcache.storage import KVCache, KVSpec
from minillm.model_config import ModelConfig
from minillm.parallel.group import SINGLE, ParallelGroup

if TYPE_CHECKING:
    from minillm.attention.batch import ForwardBatch


@dataclass(frozen=True)
class AttentionShape:
    """What attention of a model is on one rank, whatever the step: all that a backend is born with.

    num_heads: this rank's query heads. scale: what scores are multiplied with. windows: for each layer, how many tokens
    back it sees, itself included (Beltagy et al. 2020); None is all. dtype: of queries and of what comes out. kv: what
    is kept of each token.
    """

    num_heads: int
    scale: float
    windows: tuple[int | None, ...]
    dtype: torch.dtype
    device: torch.device
    kv: KVSpec

    @classmethod
    def of(
        cls, config: ModelConfig, dtype: torch.dtype, device: torch.device, group: ParallelGroup = SINGLE
    ) -> "AttentionShape":
        """A model's, on this rank of ``group``, with a cache of the same ``dtype``."""
        heads, kv_heads = group.heads_of(config.num_attention_heads, config.num_key_value_heads)
        windows = tuple(config.window(layer) for layer in range(config.num_hidden_layers))
        scale = config.attention_scale or config.head_dim**-0.5
        return cls(heads, scale, windows, dtype, device, KVSpec.of(config, kv_heads, dtype))

    @property
    def num_kv_heads(self) -> int:
        return self.kv.num_kv_heads

    @property
    def head_dim(self) -> int:
        return self.kv.head_dim

    @property
    def group(self) -> int:
        """How many query heads share a key/value head."""
        return self.num_heads // self.num_kv_heads

    @cached_property
    def kinds(self) -> tuple[int | None, ...]:
        """The windows that there are, each once: layers of one kind share a plan."""
        return tuple(dict.fromkeys(self.windows))


class AttentionBackend(ABC):
    """Attention of a step's new tokens over all cached tokens of their requests.

    It is complete when it is made, and a plan is when it is prepared: `attend` only computes.
    """

    name: str
    recordable: tuple[str, ...] = ()  # types of devices on which decode steps can be recorded, with a `fixed_plan`
    reason = ""  # why this one was chosen, in words

    def __init__(self, shape: AttentionShape) -> None:
        self.shape = shape

    @abstractmethod
    def prepare(self, batch: "ForwardBatch") -> Any:
        """Once a step, before the first layer: work out what layers share. Kept in ``batch.plan``."""

    @abstractmethod
    def attend(self, layer: int, q: Tensor, batch: "ForwardBatch") -> Tensor:
        """``q [T, H, D]`` -> ``[T, H * D]``. The step's own keys and values are in the cache already."""

    def fixed_plan(self, batch: "ForwardBatch", lengths: Tensor, split_blocks: Tensor) -> Any:
        """A plan for a step that is recorded once and replayed: R requests with one token each, whose contexts have as
        many tokens as stand in ``lengths [R]`` when it is replayed, 0 for a row that is nobody's.

        batch: its page table is as wide as it may get. split_blocks [1]: what `blocks_a_split` said of those lengths.
        """
        raise NotRecordable(f"attention_backend {self.name!r} has no plan that holds for every decode step")

    def most_fixed_rows(self, tokens: int, kv_cache: KVCache) -> int:
        """How large a step with a `fixed_plan` may be where a page table has room for so many ``tokens``: of any
        size."""
        return sys.maxsize

    def blocks_a_split(self, lengths: np.ndarray, size: int) -> int:
        """What a `fixed_plan` of ``size`` rows must be told of ``lengths [R]`` before each replay: nothing here."""
        return 0


class NotRecordable(RuntimeError):
    """Something in a step cannot be recorded; the text says what, and what to do."""
