"""The decode kernel, compiled, against its twin in torch; and that the comments in it cost a GPU nothing."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minillm.attention.backend import choose_backend
from minillm.attention.batch import ForwardBatch
from minillm.kernels.torch.attention import paged_decode
from minillm.kernels.torch.kernels import TorchKernels
from minillm.kvcache.storage import KVCache
from minillm.model_config import ModelConfig

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def batch_on_gpu(lengths: list[int], Hkv: int, D: int, S: int, dtype: torch.dtype) -> ForwardBatch:
    """One token of each request, over pages in any order, full of random numbers."""
    device, pages = torch.device("cuda"), -(-max(lengths) // S)
    config = ModelConfig("", 10, Hkv * D, 1, 1, Hkv, Hkv, D, 1 << 20)
    cache = KVCache(config, pages * len(lengths), S, Hkv, dtype, device)
    cache.tensor.normal_()
    table = torch.randperm(cache.num_pages, device=device).view(len(lengths), pages)
    some, ones = torch.zeros(len(lengths), dtype=torch.int64, device=device), [1] * len(lengths)
    backend = choose_backend("blockwise", TorchKernels())
    return ForwardBatch(some, some, some, table, lengths, ones, len(ones), None, cache, backend)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize(("lengths", "group", "D"), [([1, 33, 700], 4, 64), ([5000], 2, 128), ([40] * 70, 1, 80)])
def test_the_compiled_kernel_gives_what_its_twin_gives(
    lengths: list[int], group: int, D: int, window: int | None, dtype: torch.dtype
) -> None:
    from minillm.attention.triton import TritonAttention

    torch.manual_seed(1)
    batch = batch_on_gpu(lengths, 2, D, 16, dtype)
    q = torch.randn(len(lengths), 2 * group, D, dtype=dtype, device="cuda")
    backend, scale = TritonAttention(), 1 / math.sqrt(D)
    batch.plan = backend.prepare(batch)
    got = backend.attend(0, q, batch, scale, window)
    heads = q.view(len(lengths), 2, group, D).float()
    right = paged_decode(heads, batch.kv_cache.slots[0], batch.page_table, lengths, 16, scale, 64, 4, window)
    torch.testing.assert_close(got.float(), right.view(len(lengths), -1), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_the_blockwise_backend_runs_on_a_gpu_too() -> None:
    batch = batch_on_gpu([9, 200], 2, 64, 16, torch.float32)
    q = torch.randn(2, 4, 64, device="cuda")
    answers = []
    for name in ("blockwise", "reference"):
        batch.backend = choose_backend(name, TorchKernels())
        batch.plan = batch.backend.prepare(batch)
        answers.append(batch.backend.attend(0, q, batch, 0.125))
    torch.testing.assert_close(*answers, atol=1e-4, rtol=1e-4)


def test_a_kernel_that_is_compiled_is_triton_s_own() -> None:
    from triton.runtime.jit import JITFunction

    from minillm.kernels.triton import attention as triton_attention

    for kernel in (triton_attention._paged_decode, triton_attention._merge, triton_attention.add_block):
        assert isinstance(kernel, JITFunction) and "probe" not in vars(triton_attention)


def test_lesson_08_compiles_the_kernel_and_times_it() -> None:
    command = [sys.executable, str(ROOT / "lessons" / "08_attention_kernels.py"), "--plain"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "This machine has a GPU" in said and "compiled by Triton" in said and "These are times of a GPU" in said
