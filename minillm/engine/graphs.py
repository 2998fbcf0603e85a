"""CUDA graphs of whole decode steps: one launch in place of some three hundred.

A graph replays the kernels of one recorded step on the same memory. So its inputs lie in buffers that never move, and a
step is recorded for a few batch sizes; a batch between two sizes takes the larger one, filled up with rows that look at
nothing and write nowhere.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from minillm.attention.batch import ForwardBatch
from minillm.kernels.triton_sampling import sample_rows
from minillm.kvcache.storage import KVCache

if TYPE_CHECKING:
    from minillm.attention.triton import TritonAttention

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
SEAT, POSITION, SLOT, SEED = range(4)


@dataclass
class Recorded:
    """A step of ``size`` rows, and where its results lie: logits [size, V], tokens [size]."""

    size: int
    graph: "torch.cuda.CUDAGraph | None"
    logits: Tensor
    tokens: Tensor


class DecodeGraphs:
    """Steps in which each request computes the token that was sampled last, which the device still has.

    last_tokens [seats + 1] and page_table [seats + 1, pages] are the runner's, on the device; the last seat is nobody's
    and stands in rows that fill a batch up.
    """

    def __init__(
        self, model: nn.Module, kv_cache: KVCache, backend: "TritonAttention", last_tokens: Tensor, page_table: Tensor,
        most: int,
    ) -> None:  # fmt: skip
        self.model, self.kv_cache, self.backend = model, kv_cache, backend
        self.last_tokens, self.page_table = last_tokens, page_table
        self.sizes = [size for size in SIZES if size < most] + [most] if most <= SIZES[-1] else list(SIZES)
        largest, device = self.sizes[-1], last_tokens.device
        pinned = device.type == "cuda"
        self.nobody = len(last_tokens) - 1
        # What changes from step to step: rows [4, size], lengths and blocks a split [size + 1], temperatures [size].
        # The host writes it and copies it at once. It has two sets that take turns, for while one is written, the other
        # may still be on its way.
        kinds = ((4, largest), torch.int64), ((largest + 1,), torch.int32), ((largest,), torch.float32)
        self._hosts = [[torch.zeros(*shape, dtype=kind, pin_memory=pinned) for shape, kind in kinds] for _ in range(2)]
        self.rows, self.lengths, self.heat = (torch.zeros(*shape, dtype=kind, device=device) for shape, kind in kinds)
        self.recorded: dict[int, Recorded] = {}
        self._keep: list[object] = []  # memory that graphs use and nothing else may hold
        self.seconds = 0.0

    @torch.inference_mode()
    def record(self) -> None:
        """Record a graph for every size, the largest first, so that the others find its memory."""
        start, pool = time.perf_counter(), None
        none = np.zeros(0, dtype=np.int64)
        self._write(none, none, none, none, none, none, self.sizes[-1])  # nobody in any row
        for size in reversed(self.sizes):
            self._step(size)  # compiles what is not compiled yet, and takes memory that is kept
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                logits, tokens = self._step(size)
            pool = graph.pool()
            self.recorded[size] = Recorded(size, graph, logits, tokens)
        torch.cuda.synchronize()
        self.seconds = time.perf_counter() - start

    def replay(
        self, seats: np.ndarray, positions: np.ndarray, slots: np.ndarray, seeds: np.ndarray, temperature: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """The step of these rows, all arrays ``[R]`` -> logits ``[R, V]`` and sampled tokens ``[R]``, both good until
        the next replay. The tokens are in ``last_tokens`` already."""
        count = len(seats)
        size = next(size for size in self.sizes if size >= count)
        recorded = self.recorded[size]
        self._write(seats, positions, slots, seeds, temperature, positions + 1, size)
        if recorded.graph is not None:
            recorded.graph.replay()
        return recorded.logits[:count], recorded.tokens[:count]

    def _write(
        self, seats: np.ndarray, positions: np.ndarray, slots: np.ndarray, seeds: np.ndarray, temperature: np.ndarray,
        lengths: np.ndarray, size: int,
    ) -> None:  # fmt: skip
        """The rows into the graphs' buffers, and padding up to ``size``: nobody's seat, no slot, nothing to look at."""
        self._hosts.reverse()
        count, (rows, seen, heat) = len(seats), (host.numpy() for host in self._hosts[0])
        for row, values, padding in (
            (SEAT, seats, self.nobody), (POSITION, positions, 0), (SLOT, slots, -1), (SEED, seeds, 0)
        ):  # fmt: skip
            rows[row, :count], rows[row, count:size] = values, padding
        seen[:count], seen[count:size], heat[:count] = lengths, 0, temperature
        seen[-1] = self.backend.blocks_a_split(seen[:count], size, self.kv_cache)
        for device, host in zip((self.rows, self.lengths, self.heat), self._hosts[0]):
            device.copy_(host, non_blocking=True)

    def _step(self, size: int) -> tuple[Tensor, Tensor]:
        """What is recorded: from the rows' buffers to logits and tokens."""
        seats, positions, slots, seeds = (self.rows[row, :size] for row in range(4))
        batch = ForwardBatch(
            input_ids=self.last_tokens.index_select(0, seats),
            positions=positions,
            slots=slots,
            page_table=self.page_table.index_select(0, seats),
            context_lens=[],
            query_lens=[1] * size,
            num_single=size,
            sample_rows=None,
            kv_cache=self.kv_cache,
            backend=self.backend,
            plan=self.backend.fixed_plan(self.lengths[:size], self.lengths[-1:], self.kv_cache),
        )
        self._keep.append(batch.plan)  # it holds memory that the kernels write
        hidden = self.model(batch.input_ids, batch.positions, batch)  # [size, hidden]
        logits = self.model.compute_logits(hidden)  # type: ignore[operator]  # [size, V]
        # A token that is chosen now will stand where the context ends.
        tokens = sample_rows(logits, self.heat[:size], seeds, self.lengths[:size], self.last_tokens, seats)
        return logits, tokens
