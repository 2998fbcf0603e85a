"""The page table of all seats: which pages each request holds, in order."""

import numpy as np
import torch
from torch import Tensor

from minillm.kernels.to_device import to_device
from minillm.scheduler.plan import PlanRow


class PageTable:
    """``host [seats, pages]``, from which batches are made; and, once `put_on` a device, a copy there for recorded
    steps, which read it where it lies. Only new pages are ever written."""

    def __init__(self, seats: int, pages: int, page_size: int) -> None:
        self.host = np.zeros((seats, pages), dtype=np.int64)
        self.page_size = page_size
        self.on_device: Tensor | None = None  # [seats + 1, pages]; the last seat is nobody's

    def put_on(self, device: torch.device) -> Tensor:
        """Make the copy."""
        seats, pages = self.host.shape
        kind = torch.int32 if device.type == "cuda" else torch.int64  # as the attention kernels read it
        self.on_device = torch.zeros(seats + 1, pages, dtype=kind, device=device)
        return self.on_device

    def take(self, rows: list[PlanRow]) -> None:
        """Write down, on the host, which pages were added."""
        for row in rows:
            if row.new_pages:
                self.host[row.seat, row.num_pages - len(row.new_pages) : row.num_pages] = row.new_pages

    def copy(self, rows: list[PlanRow]) -> None:
        """The same on the device, if there is a copy: in the order of the steps, as all that they hand on."""
        if self.on_device is None or not (rows := [row for row in rows if row.new_pages]):
            return
        width = self.host.shape[1]
        at = [
            row.seat * width + row.num_pages - len(row.new_pages) + i for row in rows for i in range(len(row.new_pages))
        ]
        pages = [page for row in rows for page in row.new_pages]
        places = to_device(np.array([at, pages]), self.on_device.device)  # [2, n]
        self.on_device.view(-1).index_copy_(0, places[0], places[1].to(self.on_device.dtype))

    def slots(self, seats: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Where keys and values of these tokens go, ``[T]``: see `slot_mapping`."""
        return slot_mapping(self.host, seats, positions, self.page_size)


def slot_mapping(page_table: np.ndarray, seats: np.ndarray, positions: np.ndarray, page_size: int) -> np.ndarray:
    """Where in the cache each of the step's tokens goes: ``page * page_size + offset``, ``[T]``.

    page_table [seats, pages]: each seat's pages, in order. seats [T], positions [T]: whose token, and its place there.
    """
    pages = page_table[seats, positions // page_size]
    return pages * page_size + positions % page_size
