"""Whether the kernels in Triton work here. Importing this does not import triton; `load` does."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from minillm.kernels.triton.kernels import TritonKernels

INTERPRET = "TRITON_INTERPRET"  # Triton's own variable
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """Whether Triton's interpreter is asked for: it runs kernels on a CPU, in Python, for looking at them."""
    return os.environ.get(INTERPRET) == "1"


@contextmanager
def interpreter() -> Iterator[str | None]:
    """Inside, Triton's interpreter is asked for. Gives why it is not to be had, None if it is.

    Whether a kernel is interpreted or compiled is settled when its file is imported, and for Triton's own functions
    when Triton is: so that must not have happened yet, or have happened in here.
    """
    if find_spec("triton") is None:
        yield "the package triton is not installed; on Linux, python3 scripts/start.py setup dev brings it"
        return
    before = os.environ.get(INTERPRET)
    os.environ[INTERPRET] = "1"
    try:
        import triton.language as tl

        yield None if hasattr(tl.max, "rewriter") else "this program has imported Triton before, to compile with it"
    finally:
        if before is None:
            del os.environ[INTERPRET]
        else:
            os.environ[INTERPRET] = before


@cache
def load(device: torch.device, dtype: torch.dtype) -> "tuple[TritonKernels | None, str]":
    """The kernels, tried on this device, and why they are right; or None, and why not."""
    if device.type != "cuda" and not interpreted():
        return (
            None,
            f"they need device='cuda', and this is {device} (TRITON_INTERPRET=1 has them interpreted there, slowly)",
        )
    if dtype not in DTYPES:
        return None, f"they compute in float32, bfloat16 and float16, not in {dtype}"
    if find_spec("triton") is None:
        return None, "the package triton is not installed"
    try:
        from minillm.kernels.triton.kernels import TritonKernels, try_all

        kernels = TritonKernels()
        try_all(kernels, device, dtype)
    except Exception as error:  # compilers raise whatever they like
        return None, failed("kernels", error)
    return kernels, "Triton's interpreter, for looking: slow" if interpreted() else f"compiled by Triton for {device}"


def failed(what: str, error: Exception) -> str:
    """Why ``what`` of Triton's cannot be used, in one line; it is also said as a warning, because it costs speed."""
    lines = str(error).strip().splitlines() or [""]
    reason = f"Triton's {what} failed on this machine: {type(error).__name__}: {lines[0]}"
    warnings.warn(f"{reason}; torch does their work, which is slower", stacklevel=2)
    return reason
