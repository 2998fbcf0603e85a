"""What a device has, asked before the engine takes anything, and what is said when it turns out to be too little."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch


@dataclass
class DeviceMemory:
    """Bytes of a device: all it has, what is free, and what torch holds for others in this process.

    What other programs hold, and CUDA's own context, is neither free nor this engine's. A CPU's machine runs much
    else, so ``total``, of which the engine gets a share, is there what is free.
    """

    device: torch.device
    total: int
    free: int
    in_torch: int = 0

    @classmethod
    def look(cls, device: torch.device) -> "DeviceMemory":
        """How it is now. Engines that nobody has any more give theirs back first."""
        if device.type != "cuda":
            free = free_bytes(device)
            return cls(device, free, free)
        gc.collect()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        return cls(device, total, free, torch.cuda.memory_reserved(device))

    def used(self) -> int:
        """How much less is free on a CUDA device than at first."""
        return self.free - free_bytes(self.device)

    def outside(self) -> int:
        """How much of it torch does not hold: compiled kernels, and what CUDA's libraries take."""
        return max(self.used() - (torch.cuda.memory_reserved(self.device) - self.in_torch), 0)


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on the device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


@contextmanager
def room_for(what: str, memory: DeviceMemory, advice: str) -> Iterator[None]:
    """Inside, running out of memory becomes a ValueError that says at what, how much there was, and what to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        had = f"{show_bytes(memory.free)} of {show_bytes(memory.total)} were free on {memory.device} before"
        raise ValueError(f"out of memory while {what}: {had}; {advice} ({lines[0]})") from error


def show_bytes(count: int) -> str:
    """A size for people: ``1.11 GiB``, ``64.0 KiB``."""
    if abs(count) >= 2**27:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.1f} MiB" if abs(count) >= 2**20 else f"{count / 2**10:.1f} KiB"
