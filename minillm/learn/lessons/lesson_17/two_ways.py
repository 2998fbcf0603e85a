"""A layer's experts, computed choice by choice, and grouped."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from minillm.learn.lessons.lesson_17.routing import Routing

PRODUCTS = 20  # calls of a layer that are timed


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
    times: dict[Callable, list[float]] = {one_by_one: [], together: []}
    for _ in range(PRODUCTS):
        for way, taken in times.items():
            start = time.perf_counter()
            way()
            taken.append(time.perf_counter() - start)
    rows = [
        ("experts taken up", T * k, used, "", "lower"),
        ("weights read", T * k * size, used * size, "B", "lower"),
        ("time for this layer's experts", *(median(taken) for taken in times.values()), "s", "lower"),
    ]
    return rows, same
