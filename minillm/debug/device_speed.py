"""How fast a device is, measured: what every profile and every benchmark is held against."""

import platform
import time
from functools import cache
from pathlib import Path

import torch


@cache
def copy_speed(device: torch.device) -> float:
    """GB/s at which the device copies a tensor too large for its caches: bytes read and written. Measured once."""
    size = 2**28
    if device.type == "cuda":  # an engine may have taken nearly all of its memory
        size = min(2**31, torch.cuda.mem_get_info(device)[0] // 4)
    source = torch.ones(size // 4, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(6):
        wait_for(device)
        start = time.perf_counter()
        target.copy_(source)
        wait_for(device)
        best = min(best, time.perf_counter() - start)
    del source, target
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return 2 * size / best / 1e9


@cache
def matrix_speed(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of the product of two square matrices, which torch's own library computes: the best of several sizes and
    several tries, so as fast as this device multiplies. Measured once."""
    best = 0.0
    for size, times in ((8192, 4),) if device.type == "cuda" else ((512, 16), (1024, 8), (2048, 3)):
        a = torch.ones(size, size, dtype=dtype, device=device)
        for _ in range(times):
            wait_for(device)
            start = time.perf_counter()
            a @ a
            wait_for(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best


def wait_for(device: torch.device) -> None:
    """Until it has done all that it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def name_of(device: torch.device) -> str:
    """As its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # no Linux
    return platform.processor() or platform.machine()
