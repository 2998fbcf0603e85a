"""ForwardBatch: one step's plan as tensors. What a layer needs to know comes in here, and from nowhere else."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from minillm.attention.backend import AttentionBackend
    from minillm.kvcache.storage import KVCache


@dataclass
class ForwardBatch:
    """``T`` tokens of ``R`` requests, flattened: a request's tokens lie together, requests with one token come first.

    input_ids [T], positions [T]: the token, and its place in its request.
    slots [T]: where its key and value go in the cache.
    page_table [R, pages of the longest]: each request's pages; what stands beyond its last is masked out.
    context_lens [R], query_lens [R]: tokens known to attention after this step, tokens computed in it (lists of ints).
    num_single: how many requests, from the first on, compute exactly one token.
    sample_rows: index in [T] of each token whose logits are wanted (the last known one of its request), None for all.
    kv_cache, backend: where keys and values live, and who computes attention over them.
    plan: what the backend worked out once for this step, for all layers.
    request_ids [R]: whose tokens they are (a list of ints); only who watches reads it.
    rope: cos and sin of the positions, ``[T, D]`` each, set by the model before its first layer.
    local_rope: the same for layers with a sliding window, set where these turn by other angles.
    """

    input_ids: Tensor
    positions: Tensor
    slots: Tensor
    page_table: Tensor
    context_lens: list[int]
    query_lens: list[int]
    num_single: int
    sample_rows: Tensor | None
    kv_cache: "KVCache" = field(repr=False)
    backend: "AttentionBackend" = field(repr=False)
    plan: Any = field(default=None, repr=False)
    request_ids: list[int] = field(default_factory=list)
    rope: tuple[Tensor, Tensor] = field(init=False, repr=False)
    local_rope: tuple[Tensor, Tensor] = field(init=False, repr=False)

    @property
    def num_tokens(self) -> int:
        return self.input_ids.shape[0]

    @property
    def num_requests(self) -> int:
        return len(self.query_lens)
