"""How torch's threads wait for each other on a CPU: `minillm` asks for little spinning when it is imported, and where
that was too late, it is said here."""

import os
import warnings
from pathlib import Path

import torch

import minillm

MAPS = Path("/proc/self/maps")  # what this process has loaded; on Linux


def warn_of_spinning(device: torch.device) -> None:
    """Say once that torch's threads spin while they wait, if they do, and how to change that."""
    if minillm.torch_came_first and device.type == "cpu" and torch.get_num_threads() > 1 and gomp_is_loaded():
        minillm.torch_came_first = False
        warnings.warn(
            f"torch was imported before minillm, so its {torch.get_num_threads()} threads spin while they wait for each"
            f" other, and steps can become many times slower where another program runs too. Import minillm before "
            f"torch, or start Python with GOMP_SPINCOUNT={os.environ['GOMP_SPINCOUNT']}",
            stacklevel=2,
        )


def gomp_is_loaded() -> bool:
    """Whether this torch uses GNU's OpenMP, which is what the variable is for."""
    return MAPS.exists() and "libgomp" in MAPS.read_text(encoding="utf-8", errors="replace")
