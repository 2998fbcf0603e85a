"""Which kernels an engine runs on."""

import torch

from minillm.kernels.cpu import kernels as cpu
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kernels.triton import load as triton_load
from minillm.probe import probe


def choose_kernels(name: str, device: torch.device, dtype: torch.dtype) -> TorchKernels:
    """The kernels called ``name``; "auto" takes the fastest that work here, and the probe says why.

    ValueError if those asked for by name cannot be had.
    """
    faster: TorchKernels | None = None
    reason = "asked for"
    if name == "triton" or (name == "auto" and device.type == "cuda"):
        faster, reason = triton_load.load(device, dtype)
        if faster is None and name == "triton":
            raise ValueError(f"kernels is 'triton', but they cannot be had here: {reason}; use kernels='auto'")
    elif name != "torch":
        faster = cpu.load(dtype) if device.type == "cpu" else None
        if faster is None and name == "cpu":
            raise ValueError(
                "kernels is 'cpu', but they cannot be had here: they need device='cpu', float32 or bfloat16, and a "
                "C++ compiler (c++, g++ or clang++) on the PATH; use kernels='torch'"
            )
        reason = f"compiled for this {device.type}" if faster else f"no faster ones for {dtype} on this {device.type}"
    kernels = faster or TorchKernels()
    kernels.reason = reason
    probe.on and probe("kernels.choose", kernels=kernels, device=device, reason=reason)
    return kernels
