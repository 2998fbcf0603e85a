"""Tensors with a row for each request that asks for something: most ask for nothing, and rows can be long."""

import numpy as np
import torch
from torch import Tensor


class SeatRows:
    """A few tensors that have a row for each seat that took one. They grow when needed, and rows are used again.

    columns: name -> (shape of a row, dtype). row_of ``[seats]``: each seat's row, -1 if it has none.
    """

    def __init__(self, num_seats: int, device: torch.device, **columns: tuple[tuple[int, ...], torch.dtype]) -> None:
        self.device = device
        self.row_of = np.full(num_seats, -1, dtype=np.int64)
        self.free: list[int] = []
        self.columns: dict[str, Tensor] = {
            name: torch.zeros((0, *shape), dtype=dtype, device=device) for name, (shape, dtype) in columns.items()
        }

    def __getitem__(self, name: str) -> Tensor:
        """The tensor ``[rows, ...]`` of that name."""
        return self.columns[name]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, seat: int) -> int:
        """The seat's row; what was in it is its to overwrite."""
        if self.row_of[seat] < 0:
            if not self.free:
                self._grow(max(2 * len(self), 1))
            self.row_of[seat] = self.free.pop()
        return int(self.row_of[seat])

    def give_back(self, seat: int) -> None:
        if self.row_of[seat] >= 0:
            self.free.append(int(self.row_of[seat]))
            self.row_of[seat] = -1

    def reserve(self) -> None:
        """Make a row for every seat."""
        self._grow(len(self.row_of))

    def _grow(self, rows: int) -> None:
        rows = min(rows, len(self.row_of))
        self.free.extend(reversed(range(len(self), rows)))
        for name, old in self.columns.items():
            new = torch.zeros((rows, *old.shape[1:]), dtype=old.dtype, device=self.device)
            new[: len(old)] = old
            self.columns[name] = new
