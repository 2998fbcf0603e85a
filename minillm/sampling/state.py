"""What the runner knows of each running request's sampling, by seat, and what of it this step's batch needs.

Temperature, top-k and the like are numbers in arrays. What needs more (a row as wide as the vocabulary, the tokens said
so far) is kept only for the seats that ask for it, and a step looks at it only if one of its rows does.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from minillm.request import Candidate
from minillm.sampling.bad_words import BadWords
from minillm.sampling.logprobs import AskedLogprobs, PromptLogprobs, offsets
from minillm.sampling.masks import Biases, Ends, Grammar
from minillm.sampling.penalties import Penalties
from minillm.sampling.processors import Edits, LogitsProcessor, SeatProcessor, Step
from minillm.sampling.sampler import SamplingBatch
from minillm.scheduler.plan import Joining, PlanRow

NO_LIMIT = np.iinfo(np.int64).max
# What a seat may ask for, as bits. Those that change logits come in the order in which they do.
GRAMMAR, BIAS, BAD_WORDS, ENDS, PENALTIES, DRAWS, LOGPROBS = (1 << bit for bit in range(7))
EDITS = GRAMMAR | BIAS | BAD_WORDS | ENDS | PENALTIES


class SamplingState:
    """The settings of all seats."""

    def __init__(self, num_seats: int, vocab_size: int, device: torch.device) -> None:
        self.device, self.vocab_size = device, vocab_size
        self.temperature = np.zeros(num_seats, dtype=np.float32)
        self.top_k = np.full(num_seats, NO_LIMIT, dtype=np.int64)
        self.top_p = np.ones(num_seats, dtype=np.float32)
        self.min_p = np.zeros(num_seats, dtype=np.float32)
        self.seeds = np.zeros(num_seats, dtype=np.int64)
        self.logprobs = np.zeros(num_seats, dtype=np.int64)  # how many of the likeliest, for those that asked
        self.ends_from = np.zeros(num_seats, dtype=np.int64)  # the first position at which the answer may end
        self.asks = np.zeros(num_seats, dtype=np.uint8)  # bits; 0 is a plain greedy request
        self.grammar = Grammar()
        self.controls: dict[int, SeatProcessor] = {
            BIAS: Biases(num_seats, vocab_size, device),
            BAD_WORDS: BadWords(num_seats, device),
            ENDS: Ends(num_seats, vocab_size, device),
            PENALTIES: Penalties(num_seats, vocab_size, device),
        }
        self.filters = np.zeros(num_seats, dtype=bool)  # whether top-k, top-p or min-p leave anything out
        self.prompts: dict[int, PromptLogprobs] = {}  # by seat, until the whole prompt was computed
        self._edits = Edits(torch.empty(0), [])  # those of the batch that `_key` stands for
        self._key: tuple[bytes, bytes] | None = None

    def join(self, seat: int, joining: Joining) -> None:
        """A request takes a seat: write down what it wants."""
        params = joining.params
        self.temperature[seat], self.top_p[seat], self.min_p[seat] = params.temperature, params.top_p, params.min_p
        self.top_k[seat] = params.top_k if 0 < params.top_k < self.vocab_size else NO_LIMIT
        self.filters[seat] = params.top_k > 0 or params.top_p < 1 or params.min_p > 0
        self.seeds[seat] = joining.seed
        self.logprobs[seat] = self._count(params.logprobs or 0)
        self.prompts.pop(seat, None)
        if joining.prompt_logprobs and not joining.output_ids:
            count = self._count(params.prompt_logprobs or 0)
            self.prompts[seat] = PromptLogprobs(joining.prompt_ids, count, self.vocab_size, self.device)
        biased = bool(params.logit_bias or params.allowed_token_ids is not None)
        waits = bool(params.min_tokens and joining.end_ids)
        self.ends_from[seat] = len(joining.prompt_ids) + params.min_tokens if waits else 0
        wanted = BIAS * biased | BAD_WORDS * bool(joining.bad_words) | ENDS * waits | PENALTIES * params.penalises
        if wanted or self.asks[seat] & EDITS:
            self._key = None
            for bit, control in self.controls.items():
                control.seats.give_back(seat)
                if wanted & bit:
                    control.join(seat, joining)
        self.asks[seat] = wanted | DRAWS * (not params.greedy) | LOGPROBS * (params.logprobs is not None)

    def reserve(self) -> None:
        """Take the memory now that it takes when every seat asks for everything."""
        for control in self.controls.values():
            control.seats.reserve()

    def _count(self, wanted: int) -> int:
        return self.vocab_size if wanted == -1 else wanted

    def batch(self, rows: list[PlanRow], seats: np.ndarray, masks: dict[int, np.ndarray]) -> SamplingBatch | None:
        """The settings of the rows that sample, whose seats are ``seats [R]``; None if all of them are plain greedy.

        masks: what grammars allow, by request id.
        """
        asks = self.asks[seats]
        if not asks.any() and not masks:
            return None
        asked = int(np.bitwise_or.reduce(asks))
        positions = np.array([row.start + row.count for row in rows])
        edits = self._edits_for(rows, seats, positions, asks, masks) if masks or asked & EDITS else None
        drawn = np.flatnonzero(asks & DRAWS)
        some = len(drawn) < len(seats)
        if some:
            seats, positions = seats[drawn], positions[drawn]
        top_k, top_p, min_p = self.top_k[seats], self.top_p[seats], self.min_p[seats]
        return SamplingBatch(
            temperature=self._tensor(self.temperature[seats]),
            top_k=self._tensor(top_k),
            top_p=self._tensor(top_p),
            seeds=self._tensor(self.seeds[seats]),
            positions=self._tensor(positions),
            any_filter=bool((top_p < 1).any() or (top_k < NO_LIMIT).any()),
            drawn=self._tensor(drawn) if some else None,
            min_p=self._tensor(min_p) if min_p.any() else None,
            edits=edits,
        )

    def asked_logprobs(self, logits: Tensor, seats: np.ndarray) -> AskedLogprobs | None:
        """Set aside the raw ``logits [R, V]`` of the rows that want log probabilities; None if nobody does."""
        where = np.flatnonzero(self.asks[seats] & LOGPROBS)
        if not len(where):
            return None
        index = self._tensor(where)
        return AskedLogprobs(logits[index], index, where.tolist(), self.logprobs[seats[where]].tolist())

    def prompt_logprobs(
        self, rows: list[PlanRow], hidden: Tensor, compute_logits: Callable[[Tensor], Tensor]
    ) -> dict[int, tuple[int, list[list[Candidate]]]]:
        """``hidden [T, hidden]`` -> by request id, the first prompt token and the log probabilities from there on."""
        found = {}
        for row, offset in zip(rows, offsets(rows)):
            if prompt := self.prompts.get(row.seat):
                found[row.request_id] = prompt.take(row, hidden[offset : offset + row.count], compute_logits)
                if prompt.whole:
                    del self.prompts[row.seat]
        return found

    def _edits_for(
        self,
        rows: list[PlanRow],
        seats: np.ndarray,
        positions: np.ndarray,
        asks: np.ndarray,
        masks: dict[int, np.ndarray],
    ) -> Edits | None:
        """What this batch's rows want done to their logits. Worked out only when it is not what it was last time.

        positions ``[R]``: where the tokens that are chosen now will stand. asks ``[R]``: the rows' bits.
        """
        asks = np.where(positions < self.ends_from[seats], asks, asks & ~np.uint8(ENDS))  # only who must not end yet
        if masks:
            constrained = [i for i, row in enumerate(rows) if row.request_id in masks]
            asks[constrained] |= GRAMMAR
            self.grammar.take((masks[rows[i].request_id] for i in constrained), self.device)
        key = seats.tobytes(), asks.tobytes()
        if key != self._key:
            self._key, self._edits = key, self._make_edits(seats, asks)
        return self._edits if self._edits.steps else None

    def _make_edits(self, seats: np.ndarray, asks: np.ndarray) -> Edits:
        edited = np.flatnonzero(asks & EDITS)
        steps = []
        everyone: list[tuple[int, LogitsProcessor]] = [(GRAMMAR, self.grammar), *self.controls.items()]
        for bit, control in everyone:
            where = np.flatnonzero(asks & bit)
            if len(where):
                own = (
                    control.seats.row_of[seats[where]] if isinstance(control, SeatProcessor) else np.arange(len(where))
                )
                at = None if len(where) == len(edited) else self._tensor(np.searchsorted(edited, where))
                steps.append(Step(control, at, self._tensor(where), self._tensor(own)))
        return Edits(self._tensor(edited), steps)

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.to(self.device, non_blocking=True)
