"""Looking at a tensor's numbers without taking much memory beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PIECE = 2**22  # numbers looked at together
PROGRESS_FROM = 200 * 2**20  # bytes above which a progress bar pays


@dataclass(frozen=True)
class Numbers:
    """What a tensor's numbers are like: how many, how many of them NaN and infinite, and whether all are zero."""

    count: int
    nans: int
    infinite: int
    zero: bool


def look(tensor: Tensor) -> Numbers:
    """Count what should not be there, a piece at a time: a mask of a whole embedding is as large as the embedding."""
    nans = infinite = 0
    zero = True
    for piece in tensor.flatten().split(PIECE):
        if piece.dtype.itemsize == 1 and piece.is_floating_point():
            piece = piece.float()  # torch has few operators for 8-bit floats
        if piece.is_floating_point() and not piece.isfinite().all():
            nans += int(piece.isnan().sum())
            infinite += int(piece.isinf().sum())
        zero = zero and not bool(piece.any())
    return Numbers(tensor.numel(), nans, infinite, zero and tensor.numel() > 0)


@contextmanager
def progress(title: str, size: int) -> Iterator[Any]:
    """A bar on standard error for many bytes, nothing for few. Enters as ``advance(bytes)``."""
    if size < PROGRESS_FROM:
        yield lambda _bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=size)
        yield lambda count: bar.advance(task, count)


def tensors_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same numbers, without a third of their size."""
    pieces = zip(a.flatten().split(PIECE), b.flatten().split(PIECE))
    return a.shape == b.shape and all(torch.equal(mine, other) for mine, other in pieces)
