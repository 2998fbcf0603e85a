"""ModelRunner: a plan becomes tensors, the tensors go through the model, its logits become tokens."""

from itertools import accumulate

import numpy as np
import torch
from torch import Tensor, nn

from minillm.attention.backend import AttentionBackend
from minillm.attention.batch import ForwardBatch
from minillm.config import EngineConfig
from minillm.debug.probes import probe
from minillm.engine.sampler import SamplingBatch, sample
from minillm.kvcache.pages import pages_for
from minillm.kvcache.storage import KVCache
from minillm.scheduler.plan import PlanRow, StepPlan, StepResult


class ModelRunner:
    """Executes plans. What it knows of a request lies in arrays, at the request's seat; only what is new is written."""

    def __init__(
        self, config: EngineConfig, model: nn.Module, kv_cache: KVCache, backend: AttentionBackend, device: torch.device
    ) -> None:
        assert config.max_model_len is not None
        self.model, self.kv_cache, self.backend, self.device = model, kv_cache, backend, device
        seats = min(config.max_num_seqs, kv_cache.num_pages)  # as the scheduler has them
        self.page_table = np.zeros((seats, pages_for(config.max_model_len, kv_cache.page_size)), dtype=np.int64)
        self.temperature = np.zeros(seats, dtype=np.float32)
        self.top_k = np.zeros(seats, dtype=np.int64)
        self.top_p = np.ones(seats, dtype=np.float32)
        self.seeds = np.zeros(seats, dtype=np.int64)
        self.last_tokens = torch.zeros(seats, dtype=torch.int64, device=device)  # what was sampled last, by seat

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """Compute the plan's tokens; the token sampled for each row that samples."""
        # One-token rows first, so that attention can take them together; first of all, tokens that are on the device.
        rows = sorted(plan.rows, key=lambda row: (row.count > 1, bool(row.token_ids)))
        self._update_seats(rows)
        batch = self._build_batch(rows)
        probe.on and probe("batch.build", plan=plan, batch=batch, rows=rows)
        batch.plan = self.backend.prepare(batch)
        hidden = self.model(batch.input_ids, batch.positions, batch)  # [T, hidden]
        samplers = [row for row in rows if row.samples]
        if not samplers:
            return StepResult({})
        if batch.sample_rows is not None:
            hidden = hidden[batch.sample_rows]  # [R', hidden]
        probe.on and probe("model.logits", hidden=hidden, rows=samplers)
        logits = self.model.compute_logits(hidden)  # type: ignore[operator]  # [R', V]
        seats = np.array([row.seat for row in samplers])
        tokens = sample(logits, self._sampling(samplers, seats))
        self.last_tokens[self._tensor(seats)] = tokens
        probe.on and probe("sampler.token", tokens=tokens, logits=logits, rows=samplers)
        return StepResult(dict(zip((row.request_id for row in samplers), tokens.tolist())))

    def _update_seats(self, rows: list[PlanRow]) -> None:
        """Write down what is new: requests that take a seat, pages that were added."""
        for row in rows:
            if row.joins:
                params = row.joins.params
                self.temperature[row.seat], self.top_p[row.seat] = params.temperature, params.top_p
                self.top_k[row.seat] = params.top_k if params.top_k > 0 else np.iinfo(np.int64).max
                self.seeds[row.seat] = row.joins.seed
            if row.new_pages:
                self.page_table[row.seat, row.num_pages - len(row.new_pages) : row.num_pages] = row.new_pages

    def _build_batch(self, rows: list[PlanRow]) -> ForwardBatch:
        """The rows as tensors."""
        S = self.kv_cache.page_size
        seats = np.array([row.seat for row in rows])  # [R]
        starts = np.array([row.start for row in rows])
        counts = [row.count for row in rows]
        if counts[-1] == 1:  # sorted, so all compute one token
            positions, seat_of = starts, seats  # [T] = [R]
        else:
            ends = np.cumsum(counts)  # where each row's tokens end in [T]
            # Position of each token: its row's start, plus how far it is from the row's first token.
            positions = np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)  # [T]
            seat_of = np.repeat(seats, counts)
        slots = slot_mapping(self.page_table, seat_of, positions, S)
        return ForwardBatch(
            input_ids=self._input_ids(rows, seats),
            positions=self._tensor(positions),
            slots=self._tensor(slots),
            page_table=self._tensor(self.page_table[seats, : max([row.num_pages for row in rows])]),
            context_lens=[row.start + row.count for row in rows],
            query_lens=counts,
            num_single=counts.count(1),
            sample_rows=self._sample_rows(rows),
            kv_cache=self.kv_cache,
            backend=self.backend,
            request_ids=[row.request_id for row in rows],
        )

    def _sample_rows(self, rows: list[PlanRow]) -> Tensor | None:
        """Where in ``[T]`` the last token of each row that samples stands; None if that is everywhere."""
        ends = accumulate(row.count for row in rows)
        wanted = [end - 1 for row, end in zip(rows, ends) if row.samples]
        return None if len(wanted) == sum(row.count for row in rows) else self._tensor(np.array(wanted, dtype=np.int64))

    def _input_ids(self, rows: list[PlanRow], seats: np.ndarray) -> Tensor:
        """Tokens that the plan names, after those that are on the device still: ``[T]``."""
        on_device = sum(not row.token_ids for row in rows)  # these rows come first
        last = self.last_tokens[self._tensor(seats[:on_device])]
        if on_device == len(rows):
            return last
        named = self._tensor(np.array([token for row in rows for token in row.token_ids], dtype=np.int64))
        return torch.cat([last, named]) if on_device else named

    def _sampling(self, rows: list[PlanRow], seats: np.ndarray) -> SamplingBatch | None:
        temperature, top_k, top_p = self.temperature[seats], self.top_k[seats], self.top_p[seats]
        if not temperature.any():
            return None
        positions = np.array([row.start + row.count for row in rows])
        return SamplingBatch(
            temperature=self._tensor(temperature),
            top_k=self._tensor(top_k),
            top_p=self._tensor(top_p),
            seeds=self._tensor(self.seeds[seats]),
            positions=self._tensor(positions),
            any_filter=bool((top_p < 1).any() or (top_k < np.iinfo(np.int64).max).any()),
            any_greedy=not temperature.all(),
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)


def slot_mapping(page_table: np.ndarray, seats: np.ndarray, positions: np.ndarray, page_size: int) -> np.ndarray:
    """Where in the cache each of the step's tokens goes: ``page * page_size + offset``, ``[T]``.

    page_table [seats, pages]: each seat's pages, in order. seats [T], positions [T]: whose token, and its place there.
    """
    pages = page_table[seats, positions // page_size]
    return pages * page_size + positions % page_size
