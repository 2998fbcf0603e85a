"""What is done to logits before a token is chosen: controls, each for the rows of the batch that want it."""

from dataclasses import dataclass

from torch import Tensor

from minillm.sampling.sampler import parts_of
from minillm.sampling.seat_rows import SeatRows
from minillm.scheduler.plan import Joining


class LogitsProcessor:
    """Something that changes the logits of the requests that want it."""

    def apply(self, logits: Tensor, where: Tensor, rows: Tensor) -> Tensor:
        """``logits [n, V]`` of the rows that want it -> what becomes of them, as a new tensor.

        where ``[n]``: which rows of the batch these are. rows ``[n]``: where the control keeps what it knows of them.
        """
        raise TypeError(f"{type(self).__name__} changes no logits")

    def record(self, tokens: Tensor, rows: Tensor) -> None:
        """Take note of ``tokens [n]``, which were chosen; most need not."""


class SeatProcessor(LogitsProcessor):
    """One that keeps something for the seats that want it."""

    seats: SeatRows

    def join(self, seat: int, joining: Joining) -> None:
        """Write down what is to be known of a request that takes its seat, maybe not for the first time."""
        raise TypeError(f"{type(self).__name__} keeps nothing")


@dataclass
class Step:
    """One control in a batch."""

    control: LogitsProcessor
    at: Tensor | None  # [n]: which of the edited rows want it; None: all of them
    where: Tensor  # [n]: which rows of the batch these are
    rows: Tensor  # [n]: the control's own rows


@dataclass
class Edits:
    """All that a step does to its logits, in order. Rows that want nothing are not touched."""

    where: Tensor  # [E]: the rows of the batch that want anything
    steps: list[Step]

    def apply(self, logits: Tensor) -> None:
        """Change ``logits [R, V]`` in place."""
        edited = logits[self.where]  # [E, V]
        for step in self.steps:
            for part in parts_of(len(step.where), logits.shape[1]):
                at = part if step.at is None else step.at[part]
                edited[at] = step.control.apply(edited[at], step.where[part], step.rows[part])
        logits[self.where] = edited

    def record(self, tokens: Tensor) -> None:
        """Tell the controls what was chosen, ``tokens [R]``, without leaving the device."""
        for step in self.steps:
            step.control.record(tokens[step.where], step.rows)
