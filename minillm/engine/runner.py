"""ModelRunner: a plan becomes tensors, the tensors go through the model, its logits become tokens."""

from itertools import accumulate

import numpy as np
import torch
from torch import Tensor, nn

from minillm.attention.backend import AttentionBackend
from minillm.attention.batch import ForwardBatch
from minillm.config import EngineConfig
from minillm.debug.probes import probe
from minillm.engine.sampler import sample
from minillm.engine.sampling_state import SamplingState
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
        self.sampling = SamplingState(seats, model.config.vocab_size, device)  # type: ignore[union-attr, arg-type]
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
        result = StepResult({})
        if self.sampling.prompts:
            result.prompt_logprobs = self.sampling.prompt_logprobs(rows, hidden, self.model.compute_logits)  # type: ignore[arg-type]
        if samplers := [row for row in rows if row.samples]:
            if batch.sample_rows is not None:
                hidden = hidden[batch.sample_rows]  # [R', hidden]
            self._sample(samplers, hidden, plan, result)
        return result

    def _sample(self, samplers: list[PlanRow], hidden: Tensor, plan: StepPlan, result: StepResult) -> None:
        """``hidden [R, hidden]``, the last known token of each row that samples -> its next token, in ``result``."""
        probe.on and probe("model.logits", hidden=hidden, rows=samplers)
        logits = self.model.compute_logits(hidden)  # type: ignore[operator]  # [R, V]
        seats = np.array([row.seat for row in samplers])
        settings = self.sampling.batch(samplers, seats, plan.masks)
        asked = None if settings is None else self.sampling.asked_logprobs(logits, seats)  # before they are changed
        tokens = sample(logits, settings)
        self.last_tokens[self._tensor(seats)] = tokens
        if settings is not None and settings.edits is not None:
            settings.edits.record(tokens)
        probe.on and probe("sampler.token", tokens=tokens, logits=logits, rows=samplers)
        result.tokens = dict(zip((row.request_id for row in samplers), tokens.tolist()))
        if asked is not None:
            ids = [samplers[i].request_id for i in asked.where]
            result.logprobs = dict(zip(ids, asked.of(tokens).read(asked.counts)))

    def _update_seats(self, rows: list[PlanRow]) -> None:
        """Write down what is new: requests that take a seat, pages that were added."""
        for row in rows:
            if row.joins:
                self.sampling.join(row.seat, row.joins)
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

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)


def slot_mapping(page_table: np.ndarray, seats: np.ndarray, positions: np.ndarray, page_size: int) -> np.ndarray:
    """Where in the cache each of the step's tokens goes: ``page * page_size + offset``, ``[T]``.

    page_table [seats, pages]: each seat's pages, in order. seats [T], positions [T]: whose token, and its place there.
    """
    pages = page_table[seats, positions // page_size]
    return pages * page_size + positions % page_size
