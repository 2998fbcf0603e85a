"""Several ranks in one process: a thread each, whose collectives meet at a barrier. Nothing of torch.distributed."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from minillm.parallel.group import ParallelGroup

Result = TypeVar("Result")


@dataclass
class Meeting:
    """Where the ranks bring their tensors."""

    size: int
    brought: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=60)

    def exchange(self, rank: int, x: Tensor) -> list[Tensor]:
        """A copy of what every rank brought, in their order."""
        self.brought[rank] = x
        self.barrier.wait()
        found = [self.brought[other].clone() for other in range(self.size)]
        self.barrier.wait()  # nobody goes on, and changes what he brought, before all have seen it
        assert all(one.shape == x.shape for one in found), "the ranks met over different things"
        return found


@dataclass(frozen=True)
class FakeGroup(ParallelGroup):
    meeting: Meeting = field(default_factory=lambda: Meeting(1))

    def all_reduce(self, x: Tensor) -> Tensor:
        return x.copy_(torch.stack(self.meeting.exchange(self.rank, x)).sum(0))

    def all_gather(self, x: Tensor) -> Tensor:
        return torch.cat(self.meeting.exchange(self.rank, x), dim=-1)


def on_every_rank(size: int, work: Callable[[FakeGroup], Result]) -> list[Result]:
    """What ``work`` gives on each of ``size`` ranks, which run side by side. The first one's error, if there is one."""
    meeting = Meeting(size)

    def rank(number: int) -> Result:
        try:
            return work(FakeGroup(number, size, meeting))
        except BaseException:
            meeting.barrier.abort()  # or the others would wait for one who never comes
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(rank, number) for number in range(size)]
    errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
