"""Build 2's seam: an attention backend whose decode is the learner's kernel. Prompts are gathered, as in the reference."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from minillm.attention.backend import AttentionBackend, AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.attention.gather import GatherAttention
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kernels.triton.load import interpreter
from minillm.kvcache.storage import KVCache
from minillm.learn.builds.build_2.watch import Watch
from minillm.learn.mine import MineError
from minillm.worker import platform

Decode = Callable[..., None]


@dataclass
class Singles:
    """Requests with one token."""

    num_requests: int
    lengths: Tensor  # [R] int32, on the device
    queries = 1


class MyAttention(GatherAttention):
    """Decode by ``theirs``. watched: what its last call did to memory, where it was interpreted."""

    name = "build2"
    recordable: tuple[str, ...] = ()
    gathers = False
    reason = "yours, from my/build2.py"

    def __init__(self, shape: AttentionShape, theirs: Decode) -> None:
        super().__init__(shape)
        if any(window is not None for window in shape.windows):
            raise ValueError("this model has layers with a sliding window, and build 2's kernel knows none")
        self.theirs = theirs
        self.watched: Watch | None = None

    def plan_singles(self, batch: ForwardBatch, first: int = 0, last: int | None = None) -> Singles:
        lengths = torch.tensor(batch.context_lens[: batch.num_single], dtype=torch.int32)
        return Singles(batch.num_single, lengths.to(self.shape.device))

    def decode(self, layer: int, q: Tensor, batch: ForwardBatch, plan: Singles) -> Tensor:
        """One query a request: ``q [R, H, D]`` -> ``[R, H * D]``."""
        kv, table = batch.kv_cache[layer], batch.page_table[: len(q)]
        out = q.new_full(q.shape, float("nan"))  # what is not written is seen
        self.watched = None
        given = {"q": q, "the page table": table, "the lengths": plan.lengths}
        if q.device.type == "cpu":
            self.watched = Watch(kv.tensor, given, out)
        with self.watched or nullcontext():
            self.theirs(q, kv.keys, kv.values, table, plan.lengths, self.shape.scale, out)
        return out.view(len(q), -1)


@contextmanager
def placed(load: Callable[[], ModuleType]) -> Iterator[None]:
    """Inside, engines are made with the ``paged_decode`` of the module that ``load`` gives: interpreted, or compiled
    where there is a GPU."""
    with nullcontext() if torch.cuda.is_available() else interpreter() as why_not:
        if why_not:
            raise MineError(f"the kernel cannot run here: {why_not}")
        theirs, own = load().paged_decode, platform.choose_backend

        def mine(name: str, kernels: TorchKernels, shape: AttentionShape, cache: KVCache) -> AttentionBackend:
            return MyAttention(shape, theirs)

        platform.choose_backend = mine  # type: ignore[assignment]
        try:
            yield
        finally:
            platform.choose_backend = own
