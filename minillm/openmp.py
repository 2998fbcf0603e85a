"""How torch's threads wait for each other on a CPU. Imported before torch, by `minillm` itself, for what it sets.

They wait by spinning, some thirty times a token. Where another program wants the processor, the one that spins takes it
from the one that is waited for, and a step can become a hundred times slower; so spin briefly, then sleep.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MAPS = Path("/proc/self/maps")  # what this process has loaded; on Linux

# GNU's OpenMP reads it once, when torch is loaded; whoever has set it keeps theirs. Where torch was there first it is
# too late, and an engine says so.
_too_late = "torch" in sys.modules and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def warn_of_spinning(device: "torch.device") -> None:
    """Say once that torch's threads spin while they wait, if they do and an engine on this device uses them."""
    global _too_late
    if not _too_late or device.type != "cpu" or not gomp_is_loaded():
        return
    import torch  # here: it shall not be imported before the variable is set

    if (threads := torch.get_num_threads()) > 1:
        _too_late = False
        warnings.warn(
            f"torch was imported before minillm, so its {threads} threads spin while they wait for each other, and "
            f"steps can become many times slower where another program runs too. Import minillm before torch, or start "
            f"Python with GOMP_SPINCOUNT={os.environ['GOMP_SPINCOUNT']}",
            stacklevel=2,
        )


def gomp_is_loaded() -> bool:
    """Whether this torch uses GNU's OpenMP, which is what the variable is for."""
    return MAPS.exists() and "libgomp" in MAPS.read_text(encoding="utf-8", errors="replace")
