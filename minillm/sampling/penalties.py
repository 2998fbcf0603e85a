"""Penalties: tokens that were there already become less likely (or more, if asked so)."""

import torch
from torch import Tensor

from minillm.probe import probe
from minillm.sampling.processors import SeatProcessor
from minillm.sampling.seat_rows import SeatRows
from minillm.scheduler.plan import Joining


def apply_penalties(
    logits: Tensor, in_prompt: Tensor, counts: Tensor, repetition: Tensor, frequency: Tensor, presence: Tensor
) -> Tensor:
    """``logits [R, V]`` after penalties, as a new tensor.

    in_prompt ``[R, V]`` bool: tokens of the prompt. counts ``[R, V]`` int: how often each is in the answer so far.
    repetition, frequency, presence ``[R]``: the strengths.

    1. A token of the prompt or the answer: a logit above 0 is divided by ``repetition``, any other multiplied by it.
    2. ``frequency`` is taken off for each time that the token is in the answer.
    3. ``presence`` is taken off once if it is in the answer at all. The prompt does not count for 2 and 3.
    """
    in_answer = counts > 0
    factor = torch.where(in_prompt | in_answer, repetition[:, None], 1.0)  # [R, V]
    logits = torch.where(logits > 0, logits / factor, logits * factor)
    return logits - frequency[:, None] * counts - presence[:, None] * in_answer


class Penalties(SeatProcessor):
    """What the penalised seats have said, on the device: tokens are counted there as they are chosen."""

    def __init__(self, num_seats: int, vocab_size: int, device: torch.device) -> None:
        self.seats = SeatRows(
            num_seats,
            device,
            counts=((vocab_size,), torch.int32),
            in_prompt=((vocab_size,), torch.bool),
            strengths=((3,), torch.float32),  # repetition, frequency, presence
        )

    def join(self, seat: int, joining: Joining) -> None:
        row, params, seats = self.seats.take(seat), joining.params, self.seats
        prompt, answer = (torch.tensor(ids, dtype=torch.int64) for ids in (joining.prompt_ids, joining.output_ids))
        V = seats["counts"].shape[1]
        seats["counts"][row] = torch.bincount(answer, minlength=V).to(torch.int32)
        seats["in_prompt"][row] = torch.bincount(prompt, minlength=V) > 0
        strengths = [params.repetition_penalty, params.frequency_penalty, params.presence_penalty]
        seats["strengths"][row] = torch.tensor(strengths)

    def apply(self, logits: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        in_prompt, counts = self.seats["in_prompt"][rows], self.seats["counts"][rows]  # [n, V]
        repetition, frequency, presence = self.seats["strengths"][rows].unbind(dim=1)
        after = apply_penalties(logits, in_prompt, counts, repetition, frequency, presence)
        probe.on and probe("sampler.penalties", before=logits, after=after, counts=counts, where=where)
        return after

    def record(self, tokens: Tensor, rows: Tensor) -> None:
        self.seats["counts"][rows, tokens] += 1
