"""One place, as two computations had it: how far apart they are there, where, and whether that is too far."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from minillm.diagnose.places import Place


@dataclass
class Compared:
    """One place on both sides: ``ours [n, size], theirs [n, size]`` for n tokens, and their largest difference.

    limit: what is allowed there, the tolerance times the largest number (of theirs), or times 1 if that is larger.
    row, channel: where the largest difference is; ``position`` is the token's. head_dim: 0 where there are no heads.
    """

    place: Place
    positions: list[int] = field(repr=False)
    ours: Tensor = field(repr=False)
    theirs: Tensor = field(repr=False)
    tolerance: float
    head_dim: int = 0
    difference: float = field(init=False)
    limit: float = field(init=False)
    row: int = field(init=False)
    channel: int = field(init=False)

    def __post_init__(self) -> None:
        apart = difference(self.ours, self.theirs)  # [n, size]
        self.row, self.channel = divmod(int(apart.argmax()), apart.shape[1])
        self.difference = float(apart[self.row, self.channel])
        finite = self.theirs[self.theirs.isfinite()]
        self.limit = self.tolerance * max(1.0, float(finite.abs().max()) if len(finite) else 1.0)

    @property
    def equal(self) -> bool:
        return self.difference <= self.limit

    @property
    def position(self) -> int:
        return self.positions[self.row]

    @property
    def head(self) -> int | None:
        return self.channel // self.head_dim if self.head_dim else None

    @property
    def count_beyond(self) -> int:
        return int((difference(self.ours, self.theirs) > self.limit).sum())

    def tokens_beyond(self) -> list[int]:
        """The positions of the tokens that differ beyond the limit."""
        beyond = (difference(self.ours, self.theirs) > self.limit).any(dim=1).tolist()
        return [position for position, differs in zip(self.positions, beyond) if differs]


def difference(a: Tensor, b: Tensor) -> Tensor:
    """``|a - b|`` of the same shape; 0 where both are the same infinity or both NaN, infinite where only one is."""
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, (a - b).abs().nan_to_num(nan=float("inf"), posinf=float("inf")))


def describe(one: Compared) -> str:
    """Where the largest difference is: ``token 5, head 1, channel 3``."""
    if one.head is None:
        kind = "token id" if one.place.name == "logits" else "channel"
        return f"position {one.position}, {kind} {one.channel}"
    return f"position {one.position}, head {one.head}, channel {one.channel % one.head_dim}"
