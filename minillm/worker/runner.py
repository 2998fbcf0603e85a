"""ModelRunner: a plan becomes tensors, the tensors go through the model, its logits become tokens."""

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from minillm.attention.backend import AttentionBackend
from minillm.attention.batch import ForwardBatch
from minillm.kernels.to_device import to_device
from minillm.kvcache.pages import pages_for
from minillm.kvcache.storage import KVCache
from minillm.probe import probe
from minillm.sampling.sampler import sample_in_parts
from minillm.sampling.state import DRAWS, SamplingState
from minillm.sampling.verify import each_position
from minillm.scheduler.plan import PlanRow, StepPlan
from minillm.setup import Setup
from minillm.worker.page_table import PageTable
from minillm.worker.platform import Platform
from minillm.worker.step import Launched, Prepared

if TYPE_CHECKING:
    from minillm.worker.graphs import DecodeGraphs


class ModelRunner:
    """Executes plans. What it knows of a request lies in arrays, at the request's seat; only what is new is written."""

    def __init__(
        self,
        setup: Setup,
        platform: Platform,
        model: nn.Module,
        kv_cache: KVCache,
        backend: AttentionBackend,
        seats: int | None = None,
    ) -> None:
        self.setup, self.platform, self.device = setup, platform, setup.device
        self.model, self.kv_cache, self.backend = model, kv_cache, backend
        seats = seats or min(setup.config.max_num_seqs, kv_cache.num_pages)  # as the scheduler has them
        pages = pages_for(setup.max_model_len, kv_cache.page_size)
        self.page_table = PageTable(seats, pages, kv_cache.page_size)
        self.sampling = SamplingState(seats, model.config.vocab_size, self.device)  # type: ignore[union-attr, arg-type]
        # What was sampled last, by seat, and one more seat that is nobody's.
        self.last_tokens = torch.zeros(seats + 1, dtype=torch.int64, device=self.device)
        pinned = self.device.type == "cuda"
        self._inbox = [torch.zeros(seats, dtype=torch.int64, pin_memory=pinned) for _ in range(2)]
        self.fast_sampler = platform.fast_sampler  # for steps in which nobody asks for more than a temperature
        self.graphs: DecodeGraphs | None = None

    def record_graphs(self) -> None:
        """From now on, replay decode steps of as many requests as may run."""
        from minillm.worker.graphs import DecodeGraphs

        seats, pages = self.page_table.host.shape
        room = pages * self.kv_cache.page_size
        most = min(self.setup.config.max_num_seqs, seats, self.backend.most_fixed_rows(room, self.kv_cache))
        self.graphs = DecodeGraphs(
            self.model, self.kv_cache, self.backend, self.platform, self.last_tokens,
            self.page_table.put_on(self.device), most,
        )  # fmt: skip
        self.graphs.record()

    def launch(self, plan: StepPlan) -> Launched:
        """Set the device to work on a plan, and do not wait for what comes out."""
        return self.start(self.prepare(plan))

    @torch.inference_mode()
    def prepare(self, plan: StepPlan) -> Prepared:
        """The host's part of a launch: new pages in the page table, and the plan as tensors."""
        # One-token rows first, so that attention can take them together; first of all, tokens that are on the device.
        rows = sorted(plan.rows, key=lambda row: (row.count > 1, bool(row.token_ids)))
        self.page_table.take(rows)
        if self.graphs is not None and len(rows) <= self.graphs.sizes[-1] and not rows[-1].token_ids:
            # Sorted, so all have one token, which is on the device. And now long contexts first: a GPU that begins with
            # the short ones has a few long ones left at the end.
            rows.sort(key=lambda row: row.start, reverse=True)
            seats, positions = np.array([row.seat for row in rows]), np.array([row.start for row in rows])
            return Prepared(plan, rows, slots=self.page_table.slots(seats, positions))
        return Prepared(plan, rows, batch=self._build_batch(rows))

    @torch.inference_mode()
    def start(self, prepared: Prepared) -> Launched:
        """The device's part. All that steps hand on to each other (who sits where and wants what, the tokens sampled
        last, keys and values) is read and written here, in the order of the plans."""
        plan, rows, batch = prepared.plan, prepared.rows, prepared.batch
        self._take_seats(rows)
        if prepared.slots is not None:
            return self._replay(rows, plan, prepared.slots)
        assert batch is not None
        batch.input_ids = self._input_ids(rows, batch.input_ids)
        probe.on and probe("batch.build", plan=plan, batch=batch, rows=rows)
        batch.plan = self.backend.prepare(batch)
        hidden = self.model(batch.input_ids, batch.positions, batch)  # [T, hidden]
        batch.plan = None  # copies and masks, whose memory the sampler can have
        launched = Launched(plan)
        if self.sampling.prompts:
            launched.prompt_logprobs = self.sampling.prompt_logprobs(rows, hidden, self.model.compute_logits)  # type: ignore[arg-type]
        if samplers := [row for row in rows if row.samples]:
            if plan.num_drafts:
                samplers = each_position(samplers)
            if batch.sample_rows is not None:
                hidden = hidden[batch.sample_rows]  # [R', hidden]
            probe.on and probe("model.logits", hidden=hidden, rows=samplers)
            logits = self.model.compute_logits(hidden)  # type: ignore[operator]  # [R', V]
            self._choose(logits, samplers, np.array([row.seat for row in samplers]), launched)
        return launched

    def _replay(self, rows: list[PlanRow], plan: StepPlan, slots: np.ndarray) -> Launched:
        """A step in which every row computes the token that was sampled last, from a recorded graph. slots ``[R]``:
        where its key and value go."""
        assert self.graphs is not None
        seats = np.array([row.seat for row in rows])
        positions = np.array([row.start for row in rows])
        state = self.sampling
        logits, tokens = self.graphs.replay(seats, positions, slots, state.seeds[seats], state.temperature[seats])
        launched = Launched(plan)
        if plan.masks or (state.asks[seats] & (255 ^ DRAWS)).any() or state.filters[seats].any():
            self._choose(logits, rows, seats, launched)  # somebody asks for more than a temperature
        else:
            probe.on and probe("sampler.token", tokens=tokens, logits=logits, rows=rows)
            self._send(rows, tokens, launched)
        return launched

    def _choose(self, logits: Tensor, samplers: list[PlanRow], seats: np.ndarray, launched: Launched) -> None:
        """``logits [R, V]`` of the rows that sample -> the next token of each, under way to the host."""
        settings = self.sampling.batch(samplers, seats, launched.plan.masks)
        asked = None if settings is None else self.sampling.asked_logprobs(logits, seats)  # before they are changed
        if self.fast_sampler is not None and settings is not None and settings.plain:
            state, positions = self.sampling, np.array([row.start + row.count for row in samplers])
            arrays = state.temperature[seats], state.seeds[seats], positions
            tokens = self.fast_sampler(logits, *map(self._tensor, arrays))
        else:
            logits = logits.float()  # [R, V]
            tokens = sample_in_parts(logits, settings)
        self.last_tokens[self._tensor(seats)] = tokens
        if settings is not None and settings.edits is not None:
            settings.edits.record(tokens)
        probe.on and probe("sampler.token", tokens=tokens, logits=logits, rows=samplers)
        if asked is not None:
            launched.asked, launched.top = asked, asked.of(tokens)
        self._send(samplers, tokens, launched)

    def _send(self, rows: list[PlanRow], tokens: Tensor, launched: Launched) -> None:
        """``tokens [R]`` on their way to the host. Two buffers take turns: of two steps, one may be unread."""
        launched.rows, launched.tokens = rows, tokens
        if self.device.type != "cuda":
            launched.tokens = tokens if self.graphs is None else tokens.clone()  # the next replay writes over them
        else:
            self._inbox.reverse()
            if len(rows) > len(self._inbox[0]):  # drafts: more tokens than seats
                self._inbox[0] = torch.zeros(len(rows), dtype=torch.int64, pin_memory=True)
            launched.tokens = self._inbox[0][: len(rows)]
            launched.tokens.copy_(tokens, non_blocking=True)
            launched.ready = torch.cuda.Event()
            launched.ready.record()

    def _take_seats(self, rows: list[PlanRow]) -> None:
        """Write down what requests want that take a seat in this step; and new pages, where graphs read them."""
        for row in rows:
            if row.joins:
                self.sampling.join(row.seat, row.joins)
        self.page_table.copy(rows)

    def _build_batch(self, rows: list[PlanRow]) -> ForwardBatch:
        """The rows as tensors."""
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
        slots = self.page_table.slots(seat_of, positions)
        return ForwardBatch(
            input_ids=self._tensor(np.array([token for row in rows for token in row.token_ids], dtype=np.int64)),
            positions=self._tensor(positions),
            slots=self._tensor(slots),
            page_table=self._tensor(self.page_table.host[seats, : max([row.num_pages for row in rows])]),
            context_lens=[row.start + row.count for row in rows],
            query_lens=counts,
            num_single=counts.count(1),
            sample_rows=self._sample_rows(rows),
            kv_cache=self.kv_cache,
            backend=self.backend,
            request_ids=[row.request_id for row in rows],
        )

    def _sample_rows(self, rows: list[PlanRow]) -> Tensor | None:
        """Where in ``[T]`` the last token of each row that samples stands, and the drafts before it; None if that is
        everywhere."""
        ends = accumulate(row.count for row in rows)
        if rows[-1].count > 1 and any(row.draft_ids for row in rows):  # they have more tokens, and so are the last ones
            wanted = [
                at for row, end in zip(rows, ends) if row.samples for at in range(end - 1 - len(row.draft_ids), end)
            ]
        else:
            wanted = [end - 1 for row, end in zip(rows, ends) if row.samples]
        return None if len(wanted) == sum(row.count for row in rows) else self._tensor(np.array(wanted, dtype=np.int64))

    def _input_ids(self, rows: list[PlanRow], named: Tensor) -> Tensor:
        """Tokens that are on the device still, then those that the plan names, ``named [n]``: ``[T]``."""
        seats = [row.seat for row in rows if not row.token_ids]  # these rows come first
        if not seats:
            return named
        last = self.last_tokens[self._tensor(np.array(seats))]
        return torch.cat([last, named]) if len(named) else last

    def _tensor(self, array: np.ndarray) -> Tensor:
        return to_device(array, self.device)
