"""The decode kernel, compiled, against its twin in torch; and that the comments in it cost a GPU nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paged import make_batch, make_cache, make_shape, shuffled_pages

from minillm.attention.backend import AttentionBackend, AttentionShape
from minillm.attention.batch import ForwardBatch
from minillm.attention.blockwise import BlockwiseAttention
from minillm.attention.gather import GatherAttention
from minillm.attention.naive import NaiveAttention
from minillm.kernels.torch.attention import paged_decode

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def batch_on_gpu(lengths: list[int], shape: AttentionShape, backend: AttentionBackend) -> ForwardBatch:
    """One token of each request, over pages of 16 in any order, full of random numbers."""
    singles = [(length, 1) for length in lengths]
    cache = make_cache(shape, sum(-(-length // 16) for length in lengths), 16)
    cache.tensor.normal_()
    return make_batch(cache, singles, shuffled_pages(cache, singles, seed=1), backend)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize(("lengths", "group", "D"), [([1, 33, 700], 4, 64), ([5000], 2, 128), ([40] * 70, 1, 80)])
def test_the_compiled_kernel_gives_what_its_twin_gives(
    lengths: list[int], group: int, D: int, window: int | None, dtype: torch.dtype
) -> None:
    from minillm.attention.triton import TritonAttention

    torch.manual_seed(1)
    shape = make_shape(2 * group, 2, D, [window], dtype=dtype, device="cuda")
    batch = batch_on_gpu(lengths, shape, TritonAttention(shape))
    q = torch.randn(len(lengths), 2 * group, D, dtype=dtype, device="cuda")
    batch.plan = batch.backend.prepare(batch)
    got, cache = batch.backend.attend(0, q, batch), batch.kv_cache[0].slots
    heads = q.view(len(lengths), 2, group, D).float()
    right = paged_decode(heads, cache, batch.page_table, lengths, 16, shape.scale, 64, 4, window)
    torch.testing.assert_close(got.float(), right.view(len(lengths), -1), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    naive = NaiveAttention(shape).attend(0, q, batch)
    torch.testing.assert_close(got, naive, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("kind", [BlockwiseAttention, GatherAttention])
def test_the_backends_in_plain_torch_run_on_a_gpu_too(kind: type[AttentionBackend]) -> None:
    shape = make_shape(4, 2, 64, [None, 50], device="cuda")
    batch, q = batch_on_gpu([9, 200], shape, kind(shape)), torch.randn(2, 4, 64, device="cuda")
    batch.plan = batch.backend.prepare(batch)
    for layer in range(2):
        right = NaiveAttention(shape).attend(layer, q, batch)
        torch.testing.assert_close(batch.backend.attend(layer, q, batch), right, atol=1e-4, rtol=1e-4)


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
