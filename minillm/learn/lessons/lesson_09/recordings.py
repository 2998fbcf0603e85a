"""What an engine records when it is born, and what it replays: noted as it goes by."""

import time
from itertools import pairwise
from typing import Any

import torch

from minillm.debug.views.drawing import Drawing
from minillm.debug.views.replay_rows import replay_rows
from minillm.debug.views.table import Cells, drawn, numbers
from minillm.debug.views.units import amount
from minillm.engine.engine import Engine
from minillm.probe import Event


class Recorded:
    """``with listen("graph.record", recorded.note): ...``: for each size the time, and the memory that was taken."""

    def __init__(self) -> None:
        self._begun: list[tuple[int, float, int]] = []  # size, when, bytes taken until then

    def note(self, event: Event) -> None:
        self._begun.append((event.size, time.perf_counter(), memory(event.graphs)))

    def in_a_table(self, graphs: Any) -> Drawing:
        ended = (0, self._begun[0][1] + graphs.seconds, memory(graphs))
        rows: list[Cells] = []
        for (size, began, had), (_, end, has) in pairwise([*self._begun, ended]):
            rows.append([str(size), amount(end - began, "s"), amount(float(has - had), "B")])
        return drawn(numbers("rows", "time to record", "memory taken for it"), rows)


def memory(graphs: Any) -> int:
    """Bytes that recordings have taken so far."""
    if graphs.last_tokens.device.type == "cuda":
        return torch.cuda.memory_reserved()
    return graphs.recorder.pool.num_bytes


class Replayed:
    """``with listen("graph.replay", replayed.note): ...``, a replay with ``shown`` requests looked at closely.

    kinds: (rows, size) of every replay. places: addresses of the buffer of rows. size, buffers: of the one that is
    shown. slots: those of the cache that it changed, after `look`.
    """

    def __init__(self, engine: Engine, shown: int) -> None:
        self.engine, self.shown = engine, shown
        self.graphs: Any = engine.runner.graphs
        self.kinds: list[tuple[int, int]] = []
        self.places: set[int] = set()
        self.size = 0
        self.buffers: Drawing | None = None
        self.slots: list[int] | None = None
        self._cache: torch.Tensor | None = None

    def note(self, event: Event) -> None:
        self.kinds.append((event.count, event.size))
        self.places.add(self.graphs.rows.data_ptr())
        if event.count == self.shown and not self.buffers:
            self.size = event.size
            self.buffers = replay_rows(self.graphs, event.count, event.size, self.engine.scheduler.running)
            self._cache = self.engine.runner.kv_cache.tensor.flatten(1, 2).clone()

    def look(self) -> None:
        """After each step: the slots ``[P * S]`` that the replay shown has changed, in any layer."""
        if self._cache is not None and self.slots is None:
            changed = self.engine.runner.kv_cache.tensor.flatten(1, 2) != self._cache
            self.slots = changed.flatten(2).any(dim=2).any(dim=0).nonzero().flatten().tolist()
