"""A kernel may start while the one before it still runs (programmatic dependent launch, NVIDIA Hopper and later).

Between two small kernels a GPU does nothing for about a microsecond: the first one's last programs end, the second
one's are started and find their way to memory. Here each kernel says at its beginning that the next may start, reads
what no kernel before it writes (weights, above all), and only then waits for the one before it to be done.

Two rules keep that right. Every kernel that is started early waits before it writes anything, or reads what another
kernel of the step has written. And it waits always, for whoever comes next relies on what lies further back too.
"""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def let_next_start(EARLY: tl.constexpr):
    """The next kernel's programs may start, as soon as all of this one's have."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait_for_last(EARLY: tl.constexpr):
    """Until all kernels before this one are done, and what they wrote can be read."""
    if EARLY:
        tl.extra.cuda.gdc_wait()


@cache
def starts_early(device: torch.device) -> bool:
    """Whether kernels can, on this device and with this version of Triton."""
    able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    return able and hasattr(tl.extra.cuda, "gdc_wait")


def how(device: torch.device) -> dict[str, Any]:
    """The launch options, for kernels that take ``EARLY``."""
    early = starts_early(device)
    return {"EARLY": True, "launch_pdl": True} if early else {"EARLY": False}
