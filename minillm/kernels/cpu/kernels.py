"""CPU kernels: cpu.cpp, compiled once with the machine's own C++ compiler and called through ctypes.

Where there is no compiler, or it fails, `load` returns None and the engine runs on torch's operators: slower, same
tokens.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from minillm.kernels.torch.kernels import TorchKernels

SOURCE = Path(__file__).with_name("cpu.cpp")
# No -ffast-math: in a shared library it would switch off denormal numbers in the whole process. These four let sums be
# vectorised, which is what it would be wanted for.
FLAGS = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros"]
SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
SIGNATURES = {
    "rms_norm": [_P, _P, _P, _P, _I, _I, _F, _F],
    "norm_heads": [_P, _P, _P, _I, _I, _I, _I, _F, _F],
    "silu_and_multiply": [_P, _P, _I, _I],
    "rotate_and_store": [_P, _P, _P, _P, _P, _I, _I, _I, _I, _I],
    "paged_decode": [_P, _I, _P, _P, _I, _P, _P, _I, _I, _I, _I, _I, _F, _I],
}


class CpuKernels(TorchKernels):
    """The operations that pay, for one dtype; what is not here, torch does."""

    name = "cpu"

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._library, self.dtype = library, dtype
        if self.can_interleave(dtype):
            self._linear = getattr(library, f"linear_{SUFFIX[dtype]}")
            self._linear.argtypes, self._linear.restype = [_P, _P, _P, _P, _I, _I, _I], None
        self._functions: dict[str, Callable[..., None]] = {}
        for name, arguments in SIGNATURES.items():
            function = getattr(library, f"{name}_{SUFFIX[dtype]}")
            function.argtypes, function.restype = arguments, None
            self._functions[name] = function

    @contextmanager
    def launches_go_through(self, launch: Callable[..., None]) -> Iterator[None]:
        plain = dict(vars(self))
        self._functions = {name: partial(launch, function) for name, function in self._functions.items()}
        if "_linear" in plain:
            self._linear = partial(launch, plain["_linear"])
        try:
            with super().launches_go_through(launch):
                yield
        finally:
            vars(self).update({name: plain[name] for name in ("_functions", "_linear") if name in plain})

    def offset_rms_norm(
        self, x: Tensor, weight: Tensor, eps: float, offset: float, add: Tensor | None = None
    ) -> Tensor:
        return self.rms_norm(x, weight, eps, add, offset)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, add: Tensor | None = None, offset: float = 0.0) -> Tensor:
        out = torch.empty_like(x)
        rows, size = x.shape
        self._functions["rms_norm"](
            x.data_ptr(),
            add.data_ptr() if add is not None else None,
            weight.data_ptr(),
            out.data_ptr(),
            rows,
            size,
            eps,
            offset,
        )
        return out

    def norm_heads(
        self,
        qkv: Tensor,
        q_weight: Tensor,
        k_weight: Tensor,
        eps: float,
        num_heads: int,
        num_kv_heads: int,
        offset: float = 0.0,
    ) -> None:
        self._functions["norm_heads"](
            qkv.data_ptr(),
            q_weight.data_ptr(),
            k_weight.data_ptr(),
            len(qkv),
            num_heads,
            num_kv_heads,
            len(q_weight),
            eps,
            offset,
        )

    def gated_activation(self, gate_up: Tensor, act: str) -> Tensor:
        if act != "silu":
            return super().gated_activation(gate_up, act)
        rows, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, size)
        self._functions["silu_and_multiply"](gate_up.data_ptr(), out.data_ptr(), rows, size)
        return out

    def rotate_and_store(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor, num_heads: int, num_kv_heads: int
    ) -> None:
        rows, turned = cos.shape
        self._functions["rotate_and_store"](
            qkv.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            cache.data_ptr(),
            slots.data_ptr(),
            rows,
            num_heads,
            num_kv_heads,
            qkv.shape[1] // (num_heads + 2 * num_kv_heads),
            turned,
        )

    def can_interleave(self, dtype: torch.dtype) -> bool:
        """Whether `linear` multiplies this dtype: bfloat16 needs a processor with instructions for it."""
        return dtype == self.dtype and (dtype == torch.float32 or bool(self._library.multiplies_bf16()))

    def interleave(self, weight: Tensor) -> Tensor:
        """``weight [N, K]`` -> ``[N / n, K, n]``: n outputs side by side, N padded with zeros (n depends on the CPU).

        bfloat16 goes in pairs along K, as if two were one number of 4 bytes; an odd K gets a zero for the last pair.
        """
        n = self._library.interleaved_outputs()
        groups = _whole_groups(weight).contiguous().view(torch.float32)  # [N, K] or [N, K / 2]
        padded = torch.nn.functional.pad(groups, (0, 0, 0, -weight.shape[0] % n))
        return padded.view(-1, n, groups.shape[1]).transpose(1, 2).contiguous()

    def linear(self, x: Tensor, interleaved: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
        """``x [T, K]`` times a weight from `interleave`, plus ``bias [N]`` -> ``[T, N]``."""
        x = _whole_groups(x).contiguous()
        rows, K = x.shape
        y = x.new_empty(rows, out_features)
        at_bias = bias.data_ptr() if bias is not None else None
        self._linear(x.data_ptr(), interleaved.data_ptr(), at_bias, y.data_ptr(), rows, out_features, K)
        return y

    def paged_decode(
        self,
        q: Tensor,
        cache: Tensor,
        page_table: Tensor,
        context_lens: Tensor,
        page_size: int,
        num_kv_heads: int,
        scale: float,
        window: int | None = None,
    ) -> Tensor:
        """Attention of one query a request: ``q [R, H, D]`` over ``cache [P * S, 2 * Hkv * D]`` -> ``[R, H * D]``.

        page_table [R, pages], context_lens [R] (int64): where each request's keys and values lie, and how many there
        are; of these only the last ``window`` are looked at.
        """
        R, H, D = q.shape
        out = q.new_empty(R, H * D)
        self._functions["paged_decode"](
            q.data_ptr(), q.stride(0), cache.data_ptr(), page_table.data_ptr(), page_table.stride(0),
            context_lens.data_ptr(), out.data_ptr(), R, H, num_kv_heads, D, page_size, scale, window or 0,
        )  # fmt: skip
        return out


def _whole_groups(x: Tensor) -> Tensor:
    """``x [.., K]``, with a zero more where its rows are not whole groups of 4 bytes."""
    over = x.shape[-1] * x.itemsize % 4
    return torch.nn.functional.pad(x, (0, over // x.itemsize)) if over else x


def load(dtype: torch.dtype) -> CpuKernels | None:
    """The kernels for ``dtype``, compiled if that was not done before on this machine; None where that is not
    possible."""
    library = _library()
    return CpuKernels(library, dtype) if library and dtype in SUFFIX else None


@cache
def _library() -> ctypes.CDLL | None:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or os.name == "nt":
        return None
    key = hashlib.sha256("\0".join([SOURCE.read_text(), *FLAGS, compiler, _machine()]).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minillm"
    built = home / f"cpu-{key}.so"
    try:
        if not built.exists():
            home.mkdir(parents=True, exist_ok=True)
            _compile(compiler, built)
        return ctypes.CDLL(str(built))
    except (OSError, subprocess.SubprocessError):
        return None


def _compile(compiler: str, target: Path) -> None:
    """Compile beside the target and move it there whole: another process may be doing the same."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        built = Path(folder) / "cpu.so"
        for threads in (["-fopenmp"], []):  # Apple's compiler has no OpenMP: one thread then
            command = [compiler, *FLAGS, *threads, str(SOURCE), "-o", str(built)]
            if subprocess.run(command, capture_output=True, timeout=120).returncode == 0:
                built.replace(target)
                return
    raise OSError(f"{compiler} cannot compile {SOURCE}")


def _machine() -> str:
    """What -march=native looks at: a home folder may be shared by machines of different kinds."""
    flags = Path("/proc/cpuinfo")
    lines = flags.read_text().splitlines() if flags.exists() else []
    return platform.machine() + platform.processor() + next((line for line in lines if line.startswith("flags")), "")
