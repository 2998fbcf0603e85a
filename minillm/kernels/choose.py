"""Which kernels an engine runs on."""

import torch

from minillm.debug.probes import probe
from minillm.kernels import cpu
from minillm.kernels.torch_kernels import TorchKernels


def choose_kernels(name: str, device: torch.device, dtype: torch.dtype) -> TorchKernels:
    """The kernels called ``name``; "auto" takes the fastest that work here, and the probe says why."""
    kernels: TorchKernels = TorchKernels()
    reason = "asked for"
    if name != "torch":
        compiled = cpu.load(dtype) if device.type == "cpu" else None
        if compiled is None and name == "cpu":
            raise ValueError(
                "kernels is 'cpu', but they cannot be had here: they need device='cpu', float32 or bfloat16, and a "
                "C++ compiler (c++, g++ or clang++) on the PATH; use kernels='torch'"
            )
        reason = f"compiled for this {device.type}" if compiled else f"no faster ones for {dtype} on this {device.type}"
        kernels = compiled or kernels
    probe.on and probe("kernels.choose", kernels=kernels, device=device, reason=reason)
    return kernels
