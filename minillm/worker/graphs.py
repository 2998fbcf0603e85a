"""Recorded decode steps: on a GPU a CUDA graph, one launch in place of some three hundred; on a CPU a tape.

A recording replays the kernels of one step on the same memory. So its inputs lie in buffers that never move, and a step
is recorded for a few batch sizes; a batch between two sizes takes the larger one, filled up with rows that look at
nothing and write nowhere.
"""

import time
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from minillm.attention.backend import AttentionBackend
from minillm.attention.batch import ForwardBatch
from minillm.kvcache.storage import KVCache
from minillm.probe import probe, replays, unheard
from minillm.worker.capture import Recording
from minillm.worker.platform import Platform

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
SEAT, POSITION, SLOT, SEED = range(4)


@dataclass
class Recorded:
    """A step of ``size`` rows, and where its results lie: logits [size, V], tokens [size]."""

    size: int
    graph: Recording | None
    logits: Tensor
    tokens: Tensor


class DecodeGraphs:
    """Steps in which each request computes the token that was sampled last, which the device still has.

    last_tokens [seats + 1] and page_table [seats + 1, pages] are the runner's, on the device; the last seat is nobody's
    and stands in rows that fill a batch up.
    """

    def __init__(
        self, model: nn.Module, kv_cache: KVCache, backend: AttentionBackend, platform: Platform,
        last_tokens: Tensor, page_table: Tensor, most: int,
    ) -> None:  # fmt: skip
        self.model, self.kv_cache, self.backend = model, kv_cache, backend
        self.last_tokens, self.page_table = last_tokens, page_table
        self.sizes = capture_sizes(most)
        self.sample_rows, self.recorder = platform.recorded_sampler, platform.recorder()
        largest, device = self.sizes[-1], last_tokens.device
        pinned = device.type == "cuda"
        self.nobody = len(last_tokens) - 1
        # What changes from step to step: rows [4, size], lengths and blocks a split [size + 1], temperatures [size].
        # The host writes it and copies it at once. It has two sets that take turns, for while one is written, the other
        # may still be on its way.
        kinds = ((4, largest), torch.int64), ((largest + 1,), torch.int32), ((largest,), torch.float32)
        self._hosts = [[torch.zeros(*shape, dtype=kind, pin_memory=pinned) for shape, kind in kinds] for _ in range(2)]
        self.rows, self.lengths, self.temperatures = (
            torch.zeros(*shape, dtype=kind, device=device) for shape, kind in kinds
        )
        self.recorded: dict[int, Recorded] = {}
        self._keep: list[object] = []  # memory that graphs use and nothing else may hold
        self.seconds = 0.0

    @torch.inference_mode()
    def record(self) -> None:
        """Record a step of every size, the largest first, so that the others find its memory."""
        start = time.perf_counter()
        none = np.zeros(0, dtype=np.int64)
        self._write(none, none, none, none, none, self.sizes[-1])  # nobody in any row
        for size in reversed(self.sizes):
            probe.on and probe("graph.record", size=size, graphs=self)
            with unheard():
                graph, (logits, tokens) = self.recorder.record(lambda: self._step(size))  # noqa: B023  # called at once
            self.recorded[size] = Recorded(size, graph, logits, tokens)
        if self.last_tokens.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - start
        replays(self)

    def replay(
        self, seats: np.ndarray, positions: np.ndarray, slots: np.ndarray, seeds: np.ndarray, temperature: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """The step of these rows, all arrays ``[R]`` -> logits ``[R, V]`` and sampled tokens ``[R]``, both good until
        the next replay. The tokens are in ``last_tokens`` already."""
        count = len(seats)
        size = choose_size(self.sizes, count)
        recorded = self.recorded[size]
        self._write(seats, positions, slots, seeds, temperature, size)
        probe.on and probe("graph.replay", count=count, size=size, graphs=self)
        if recorded.graph is not None:
            recorded.graph.replay()
        return recorded.logits[:count], recorded.tokens[:count]

    def _write(
        self, seats: np.ndarray, positions: np.ndarray, slots: np.ndarray, seeds: np.ndarray, temperature: np.ndarray,
        size: int,
    ) -> None:  # fmt: skip
        """The rows into the graphs' buffers, and padding up to ``size``."""
        self._hosts.reverse()
        count, (rows, seen, temperatures) = len(seats), (host.numpy() for host in self._hosts[0])
        fill_rows(rows, seen, seats, positions, slots, seeds, size, self.nobody)
        temperatures[:count] = temperature
        seen[-1] = self.backend.blocks_a_split(seen[:count], size)
        for device, host in zip((self.rows, self.lengths, self.temperatures), self._hosts[0]):
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
        )
        batch.plan = self.backend.fixed_plan(batch, self.lengths[:size], self.lengths[-1:])
        self._keep.append(batch.plan)  # it holds memory that the kernels write
        hidden = self.model(batch.input_ids, batch.positions, batch)  # [size, hidden]
        logits = self.model.compute_logits(hidden)  # type: ignore[operator]  # [size, V]
        # A token that is chosen now will stand where the context ends.
        tokens = self.sample_rows(logits, self.temperatures[:size], seeds, self.lengths[:size], self.last_tokens, seats)
        return logits, tokens


def capture_sizes(most: int) -> list[int]:
    """For how many rows a step is recorded, the smallest first, if up to ``most`` requests run: all of SIZES below
    that, and ``most`` itself. Beyond the largest of SIZES none is recorded."""
    largest = min(most, SIZES[-1])
    return [size for size in SIZES if size < largest] + [largest]


def choose_size(sizes: list[int], count: int) -> int:
    """The smallest of the recorded ``sizes``, which rise, that has room for ``count`` rows. ValueError if none has."""
    at = bisect_left(sizes, count)
    if at == len(sizes):
        raise ValueError(f"no step of {count} rows was recorded; the largest has {sizes[-1]}: compute it eagerly")
    return sizes[at]


def fill_rows(
    rows: np.ndarray, lengths: np.ndarray, seats: np.ndarray, positions: np.ndarray, slots: np.ndarray,
    seeds: np.ndarray, size: int, nobody: int,
) -> None:  # fmt: skip
    """A step of R requests into buffers that a recorded step of ``size`` rows reads, in place.

    rows [4, largest]: seats, positions, slots and seeds (SEAT, POSITION, SLOT, SEED), a row of the step in each column.
    lengths [largest + 1]: how many tokens each sees, itself included; the last number is not a row's. The arguments
    after these are ``[R]``. Columns from R to ``size`` are padding: seat ``nobody``, slot -1, which is nowhere, the
    rest 0. Columns from ``size`` on stay as they are.
    """
    count = len(seats)
    for row, values, padding in (
        (SEAT, seats, nobody), (POSITION, positions, 0), (SLOT, slots, -1), (SEED, seeds, 0)
    ):  # fmt: skip
        rows[row, :count], rows[row, count:size] = values, padding
    lengths[:count], lengths[count:size] = positions + 1, 0
