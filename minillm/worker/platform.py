"""What this machine runs: which kernels, formats of weights and attention, whether steps are recorded, who draws.

All of it is decided here, and each choice comes with its reason. Elsewhere nobody asks what kind of device there is in
order to choose: they take what the platform gives them.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from minillm.attention.backend import AttentionBackend, AttentionShape
from minillm.attention.choose import choose_backend
from minillm.kernels.cpu import kernels as cpu
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kernels.triton import load as triton
from minillm.kvcache.storage import KVCache
from minillm.layers.build import LayerBuild
from minillm.probe import probe
from minillm.quantization.dense import choose_format
from minillm.quantization.format import OneFormat
from minillm.sampling import sampler
from minillm.setup import Setup
from minillm.worker.capture import Recorder, recorder_for

# logits [R, V], temperature [R], seeds [R], positions [R] -> tokens [R]; see `sampler.sample_rows`
SampleRows = Callable[..., Tensor]


class Platform:
    """The machine under one rank of an engine."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.kernels = choose_kernels(setup.config.kernels, setup.device, setup.dtype)
        self.attention = AttentionShape.of(setup.model_config, setup.dtype, setup.device, setup.group)

    @property
    def layer_build(self) -> LayerBuild:
        """How the model's layers are made: dtype, formats of their weights, kernels, ranks."""
        setup = self.setup
        format = choose_format(setup.device, setup.dtype, setup.config.pack_weights, self.kernels)
        return LayerBuild(setup.dtype, OneFormat(format), self.kernels, setup.group)

    def attention_for(self, cache: KVCache) -> AttentionBackend:
        """Who computes attention over this cache, with its ``reason``."""
        return choose_backend(self.setup.config.attention_backend, self.kernels, self.attention, cache)

    def why_eager(self, model: nn.Module, backend: AttentionBackend) -> str | None:
        """Why decode steps are not replayed from recordings; None if they are."""
        asked, device = self.setup.config.enforce_eager, self.setup.device
        if asked is True:
            return "asked for"
        if device.type not in backend.recordable:
            return f"attention_backend {backend.name!r} works some of it out on the host"
        if reads := next((why for module in model.modules() if (why := getattr(module, "reads_on_host", None))), None):
            return reads
        if asked is False:
            return None
        if device.type != "cuda":
            return f"on a {device.type} little is saved; enforce_eager=False records all the same"
        if self.setup.watched:
            return f"{self.setup.watched}, and a replay runs past all that can be looked at"
        return None

    def recorder(self) -> Recorder:
        """Who records functions that are replayed later."""
        return recorder_for(self.setup.device, self.kernels)

    @property
    def recorded_sampler(self) -> SampleRows:
        """Who draws in a recorded step, where every row has a temperature and nothing else."""
        return _drawn_by_kernel() if self.setup.device.type == "cuda" else sampler.sample_rows

    @cached_property
    def fast_sampler(self) -> SampleRows | None:
        """The same in other steps: one kernel in place of some twenty operators; None where there is none."""
        return _drawn_by_kernel() if self.kernels.name == "triton" else None


def _drawn_by_kernel() -> SampleRows:
    from minillm.kernels.triton.sampling import sample_rows

    return sample_rows


def choose_kernels(name: str, device: torch.device, dtype: torch.dtype) -> TorchKernels:
    """The kernels called ``name``; "auto" takes the fastest that work here, and the probe says why.

    ValueError if those asked for by name cannot be had.
    """
    faster: TorchKernels | None = None
    reason = "asked for"
    if name == "triton" or (name == "auto" and device.type == "cuda"):
        faster, reason = triton.load(device, dtype)
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
