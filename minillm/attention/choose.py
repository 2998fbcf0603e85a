"""Which attention backend an engine gets, and why.

A backend is a file here and a name in `config.ATTENTION_BACKENDS`. Its file has ``load(shape, kernels, cache)``, which
gives the backend and what is to be said of it; or None, and why it cannot be had.
"""

from importlib import import_module

from minillm.attention.backend import AttentionBackend, AttentionShape
from minillm.checks import one_of
from minillm.config import ATTENTION_BACKENDS
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kernels.triton.load import interpreted
from minillm.kvcache.storage import KVCache
from minillm.probe import probe

FILES = {"reference": "gather"}  # others lie in a file of their own name
FASTEST = {  # by the kernels' name, those that "auto" takes, the fastest first, as messages call them; then: reference
    "cpu": {"cpu": "the CPU's attention"},
    "triton": {"triton": "Triton's attention", "flash": "flash-attn"},
}


def choose_backend(name: str, kernels: TorchKernels, shape: AttentionShape, cache: KVCache) -> AttentionBackend:
    """The backend called ``name``; "auto" takes the fastest for the kernels that there are, and the probe says why.

    "auto" with Triton's kernels takes the flash-attn package where Triton's attention cannot be had, or the reference.
    Those that others' compilers have a part in run over the cache's first page, so that one that cannot is found out
    now. ValueError if it was asked for by name.
    """
    if name == "auto":
        backend, reason = fastest(kernels, shape, cache)
    else:
        backend, reason = asked_for(name, kernels, shape, cache), "asked for"
    backend.reason = reason
    probe.on and probe("attention.choose", backend=backend, kernels=kernels, reason=reason)
    return backend


def fastest(kernels: TorchKernels, shape: AttentionShape, cache: KVCache) -> tuple[AttentionBackend, str]:
    """What "auto" is, and why."""
    reason = f"the fastest that goes with {kernels.name} kernels"
    refusals: list[str] = []
    for name, title in FASTEST.get(kernels.name, {}).items():
        backend, why = load(name, kernels, shape, cache)
        if backend is not None:
            return backend, "; ".join([*refusals, why]) if refusals else reason
        refusals.append(f"nor can {title} be had: {why}" if refusals else why)
    reference, _ = load("reference", kernels, shape, cache)
    assert reference is not None
    return reference, "; ".join(refusals) or reason


def asked_for(name: str, kernels: TorchKernels, shape: AttentionShape, cache: KVCache) -> AttentionBackend:
    """The backend of this name. ValueError, and what to do, if it cannot be had."""
    if name in FASTEST and kernels.name != name and not (name == "triton" and interpreted()):
        raise ValueError(
            f"attention_backend {name!r} needs kernels={name!r}, but the kernels are {kernels.name!r}; use 'reference'"
        )
    backend, why = load(name, kernels, shape, cache)
    if backend is None:
        instead = "use 'reference'" if name in FASTEST else "'auto' takes what works here"
        raise ValueError(f"attention_backend is {name!r}, but it cannot be had here: {why}; {instead}")
    return backend


def load(
    name: str, kernels: TorchKernels, shape: AttentionShape, cache: KVCache
) -> tuple[AttentionBackend | None, str]:
    """What the backend's own file says. It is imported only now: some need packages that are not everywhere."""
    one_of("attention_backend", name, ATTENTION_BACKENDS)
    return import_module(f"minillm.attention.{FILES.get(name, name)}").load(shape, kernels, cache)
