"""A layer's experts, computed choice by choice, and grouped."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor

from minillm.learn.lessons.lesson_17.routing import Routing
from minillm.learn.timing import in_turns

CALLS = 7  # of a layer, that are timed in a round


@torch.inference_mode()
def two_ways(seen: Routing, hidden: Tensor) -> tuple[list[tuple], bool]:
    """Rows for `before_after`: matrices taken up, bytes read, time. And whether both ways give the same numbers."""
    moe, (T, k) = seen.moe, seen.experts.shape
    experts, choices = seen.experts.to(hidden.device), seen.experts.flatten().tolist()
    size, used = 3 * moe.hidden_size * moe.experts.inner * hidden.itemsize, len(set(choices))

    def one_by_one() -> Tensor:
        rows = [moe.compute_one(hidden[i // k, None], expert) for i, expert in enumerate(choices)]
        return torch.cat(rows).view(T, k, -1)

    def together() -> Tensor:
        return moe.compute(hidden, experts)

    same = torch.allclose(one_by_one(), together(), rtol=1e-3, atol=1e-3)
    times = in_turns({way: partial(seconds_of, way) for way in (one_by_one, together)})
    rows = [
        ("experts taken up", T * k, used, "", "lower"),
        ("weights read", T * k * size, used * size, "B", "lower"),
        ("time for this layer's experts", *times.values(), "s", "lower"),
    ]
    return rows, same


def seconds_of(way: Callable[[], Tensor]) -> float:
    """Of one call, the median of some."""
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - start)
    return median(seconds)
