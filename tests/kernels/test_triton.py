"""Triton's kernels on a CPU: its interpreter runs them, in a process of its own, because it must be told beforehand."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from paged import make_cache, make_shape

from minillm.attention.choose import choose_backend
from minillm.kernels.torch.kernels import TorchKernels
from minillm.worker.platform import choose_kernels

TESTS = Path(__file__).resolve().parent.parent
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


@needs_triton
@pytest.mark.parametrize(
    ("file", "least"),
    [
        ("kernels/test_kernels.py", 30),
        pytest.param("attention/test_backends.py", 20, marks=pytest.mark.ci),  # half a minute each
        pytest.param("kernels/interpreted_triton.py", 30, marks=pytest.mark.ci),
    ],
)
def test_in_the_interpreter(file: str, least: int) -> None:
    """The tests that every kernel and backend passes, and what only these have."""
    command = [sys.executable, "-m", "pytest", str(TESTS / file), "-k", "triton", "--tb=short", "-p", "no:xdist"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=TESTS.parent, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= least, done.stdout


def test_they_are_refused_on_a_cpu_with_the_reason() -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter has them on a CPU")
    with pytest.raises(ValueError, match=r"kernels is 'triton', but .* need device='cuda', and this is cpu .*'auto'"):
        choose_kernels("triton", torch.device("cpu"), torch.float32)
    shape = make_shape(4, 2, 16)
    with pytest.raises(ValueError, match=r"attention_backend 'triton' needs kernels='triton', but .* 'torch'"):
        choose_backend("triton", TorchKernels(), shape, make_cache(shape, 2, 4))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that works")
@needs_triton
def test_a_gpu_on_which_they_fail_gets_torchs_and_a_warning() -> None:
    """Here there is none, so that compiling for it fails for certain."""
    from minillm.kernels.triton import load as triton_load

    triton_load.load.cache_clear()
    with pytest.warns(UserWarning, match=r"Triton's kernels failed on this machine: .*; torch does their work"):
        assert choose_kernels("auto", torch.device("cuda"), torch.float32).name == "torch"


def test_a_cpu_engine_imports_no_triton() -> None:
    code = """
import sys, torch
before = "triton" in sys.modules
from minillm.worker.platform import choose_kernels
from minillm.attention.backend import AttentionShape
from minillm.attention.choose import choose_backend
from minillm.kvcache.storage import KVCache, KVSpec
cpu, kv = torch.device("cpu"), KVSpec(1, 2, 16, torch.float32)
shape, cache = AttentionShape(4, 1.0, (None,), torch.float32, cpu, kv), KVCache(kv, 2, 4, cpu)
choose_backend("auto", choose_kernels("auto", cpu, torch.float32), shape, cache)
assert before or "triton" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
