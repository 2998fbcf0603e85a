"""One query through every attention backend that this machine has."""

import time
from collections.abc import Iterable
from functools import partial
from math import ceil, log10
from statistics import median

import torch
from torch import Tensor

from minillm.attention.backend import AttentionBackend
from minillm.attention.blockwise import BlockwiseAttention
from minillm.attention.cpu import CpuAttention
from minillm.attention.gather import GatherAttention
from minillm.debug.views.drawing import Drawing
from minillm.debug.views.spread import spread
from minillm.debug.views.table import Cells, Col, drawn, numbers
from minillm.debug.views.units import amount
from minillm.kernels.cpu import kernels as cpu
from minillm.learn.lessons.lesson_08.query import Query
from minillm.learn.timing import in_turns

REPEATS = 8  # of each time that is measured


def backends(query: Query) -> dict[str, tuple[AttentionBackend, str]]:
    """Every backend that this machine has but Triton's, and how it reads."""
    found: dict[str, tuple[AttentionBackend, str]] = {
        "reference": (GatherAttention(query.shape), "gathers, then torch"),
        "blockwise": (BlockwiseAttention(query.shape), "in place, plain torch"),
    }
    kernels = cpu.load(query.q.dtype) if query.q.device.type == "cpu" else None
    if kernels:
        found["cpu"] = CpuAttention(query.shape, kernels), "in place, compiled C++"
    return found


def triton(query: Query) -> AttentionBackend:
    """Triton's, for a GPU. Imported here: whether its kernels are interpreted is settled when they are imported."""
    from minillm.attention.triton import TritonAttention

    return TritonAttention(query.shape)


def answer(backend: AttentionBackend, query: Query) -> Tensor:
    """``[1, H * D]``, planned as the engine does."""
    query.batch.plan = backend.prepare(query.batch)
    return backend.attend(query.layer, query.q, query.batch)


def difference(one: Tensor, other: Tensor) -> str:
    """The largest, as the next power of ten above it: its digits depend on the machine."""
    largest = float((one.float() - other.float()).abs().max())
    return f"below {10.0 ** max(ceil(log10(largest)), -5):g}" if largest else "none"


def compared(query: Query, by_triton: Tensor | None) -> Drawing:
    """A row a backend: its largest difference from the reference, and the bytes that it moves."""
    answers = {name: (answer(backend, query), how) for name, (backend, how) in backends(query).items()}
    if by_triton is not None:
        on = "compiled by Triton" if by_triton.device.type == "cuda" else "in place, interpreted"
        answers["triton"] = by_triton, on
    right, kv = answers["reference"][0], query.kv_bytes
    rows: list[Cells] = [
        [name, how, difference(out, right), amount(float(3 * kv if name == "reference" else kv), "B")]
        for name, (out, how) in answers.items()
    ]
    columns = [Col("backend"), Col("how", wraps=True, spare=1), *numbers("largest difference", "keys and values moved")]
    return drawn(columns, rows)


def timed(queries: Iterable[Query]) -> Drawing:
    """A row a backend, a column a query: the time of one attention; and GB/s with the last, the longest."""
    times: dict[str, list[list[float]]] = {}
    lengths = []
    for query in queries:
        found = {name: backend for name, (backend, _) in backends(query).items()}
        if query.q.device.type == "cuda":
            found["triton"] = triton(query)
        ways = {name: partial(seconds_of, backend, query) for name, backend in found.items()}
        for name, rounds in in_turns(ways).items():
            times.setdefault(name, []).append(rounds)
        lengths.append(query.length)
    rows: list[Cells] = [
        [name, *(spread(rounds, "s", "\n") for rounds in took), f"{query.kv_bytes / median(took[-1]) / 1e9:.2f}"]
        for name, took in times.items()
    ]
    columns = [Col("backend"), *(Col(f"{length:,} tokens", "right", wraps=True) for length in lengths)]
    return drawn([*columns, Col("GB/s, longest", "right", spare=1)], rows)


def seconds_of(backend: AttentionBackend, query: Query) -> float:
    """Of one attention, the median of several; planning, which all layers share, is left out."""
    query.batch.plan = backend.prepare(query.batch)
    seconds = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        backend.attend(query.layer, query.q, query.batch)
        if query.q.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return median(seconds[2:])
