"""Whether the kernels in Triton work here. Importing this does not import triton; `load` does."""

import os
import warnings
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from minillm.kernels.triton_kernels import TritonKernels

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def load(device: torch.device, dtype: torch.dtype) -> "tuple[TritonKernels | None, str]":
    """The kernels, tried on this device, and why they are right; or None, and why not."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return (
            None,
            f"they need device='cuda', and this is {device} (Triton's interpreter, TRITON_INTERPRET=1, has one)",
        )
    if dtype not in DTYPES:
        return None, f"they compute in float32, bfloat16 and float16, not in {dtype}"
    if find_spec("triton") is None:
        return None, "the package triton is not installed"
    try:
        from minillm.kernels.triton_kernels import TritonKernels, try_all

        kernels = TritonKernels()
        try_all(kernels, device, dtype)
    except Exception as error:  # compilers raise whatever they like
        return None, failed("kernels", error)
    return kernels, "Triton's interpreter, for looking: slow" if interpreted else f"compiled by Triton for {device}"


def failed(what: str, error: Exception) -> str:
    """Why ``what`` of Triton's cannot be used, in one line; it is also said as a warning, because it costs speed."""
    lines = str(error).strip().splitlines() or [""]
    reason = f"Triton's {what} failed on this machine: {type(error).__name__}: {lines[0]}"
    warnings.warn(f"{reason}; torch does their work, which is slower", stacklevel=2)
    return reason
