"""The operations between the matrix products: torch's against plain formulas, the compiled ones against the same."""

import ctypes
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paged import all_kernels
from torch import Tensor

from minillm.kernels.cpu import kernels as cpu
from minillm.kernels.torch.kernels import ACTIVATIONS, TorchKernels
from minillm.worker.platform import choose_kernels

CPU = torch.device("cpu")
every_kernel = pytest.mark.parametrize("kernels", all_kernels(), ids=lambda kernels: kernels.name)
needs_compiler = pytest.mark.skipif(cpu.load(torch.float32) is None, reason="no C++ compiler here")


def close(got: Tensor, expected: Tensor, dtype: torch.dtype = torch.float32) -> None:
    tolerance = 2e-6 if dtype == torch.float32 else 1.6e-2  # bf16 has 8 bits
    torch.testing.assert_close(got.float(), expected.float(), atol=tolerance, rtol=tolerance * 4)


def kernels_for(kernels: TorchKernels, dtype: torch.dtype) -> TorchKernels:
    if kernels.name == "triton" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter computes bfloat16 wrongly; tests/engine/test_gpu.py has it on a GPU")
    other = cpu.load(dtype) if kernels.name == "cpu" else None
    return other or kernels


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (1, 48), (3, 63), (17, 256)])
def test_rms_norm_is_its_formula(kernels: TorchKernels, dtype: torch.dtype, rows: int, size: int) -> None:
    x, weight = (torch.randn(rows, size) * 3).to(dtype), torch.rand(size).to(dtype)
    before = x.clone()
    exact = x.double()
    expected = exact / (exact.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    close(kernels_for(kernels, dtype).rms_norm(x, weight, 1e-5), expected, dtype)
    assert torch.equal(x, before)


@every_kernel
def test_rms_norm_adds_to_the_residual_stream_first_and_in_place(kernels: TorchKernels) -> None:
    x, add, weight = torch.randn(5, 48), torch.randn(5, 48), torch.rand(48)
    total, kept = x + add, add.clone()
    expected = total / (total.pow(2).mean(-1, keepdim=True) + 0.1).sqrt() * weight
    close(kernels.rms_norm(x, weight, 0.1, add), expected)
    assert torch.equal(x, total) and torch.equal(add, kept)


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_offset_is_added_to_the_norms_weight_without_rounding_it(kernels: TorchKernels, dtype: torch.dtype) -> None:
    """1 + 0.001 is 1 in bfloat16: added there, the weight would be gone."""
    x, add, weight = torch.randn(5, 48).to(dtype), torch.randn(5, 48).to(dtype), torch.full((48,), 0.001).to(dtype)
    total = x + add
    exact = total.double() / (total.double().pow(2).mean(-1, keepdim=True) + 0.1).sqrt()
    got = kernels_for(kernels, dtype).offset_rms_norm(x, weight, 0.1, 1.0, add)
    close(got, exact * (1 + weight.double()), dtype)
    assert torch.equal(x, total)
    big = kernels_for(kernels, dtype).offset_rms_norm(torch.full((1, 48), 3.0, dtype=dtype), weight * 4, 0.0, 1.0)
    assert (big > 1).all() or dtype == torch.float32


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize(("H", "Hkv", "D"), [(6, 2, 16), (3, 1, 64), (1, 1, 5), (5, 5, 20)])
def test_norm_heads_is_rms_norm_of_each_head(
    kernels: TorchKernels, dtype: torch.dtype, offset: float, H: int, Hkv: int, D: int
) -> None:
    qkv = (torch.randn(7, (H + 2 * Hkv) * D) * 3).to(dtype)
    q_weight, k_weight = torch.rand(D).to(dtype), torch.rand(D).to(dtype)
    before = qkv.clone().view(7, -1, D)
    kernels_for(kernels, dtype).norm_heads(qkv, q_weight, k_weight, 1e-5, H, Hkv, offset)
    got = qkv.view(7, -1, D)
    for h in range(H + Hkv):
        exact, weight = before[:, h].double(), (q_weight if h < H else k_weight).double() + offset
        close(got[:, h], exact / (exact.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight, dtype)
    assert torch.equal(got[:, H + Hkv :], before[:, H + Hkv :]), "values are not normalised"


@every_kernel
def test_rms_norm_of_zeros_is_zero(kernels: TorchKernels) -> None:
    assert not kernels.rms_norm(torch.zeros(2, 8), torch.ones(8), 1e-6).any()


PLAIN = {
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_pytorch_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: x.clamp(min=0),
    "relu2": lambda x: x.clamp(min=0) ** 2,
}


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_gated_activation_is_its_formula(kernels: TorchKernels, dtype: torch.dtype, act: str) -> None:
    gate_up = (torch.randn(9, 2 * 37) * 4).to(dtype)
    gate, up = gate_up.double().chunk(2, dim=-1)
    close(kernels_for(kernels, dtype).gated_activation(gate_up, act), PLAIN[act](gate) * up, dtype)


@every_kernel
def test_silu_of_extreme_numbers(kernels: TorchKernels) -> None:
    gate = torch.tensor([[-1e30, -200.0, -88.0, -87.0, -20.0, 0.0, 20.0, 88.0, 200.0, 1e30]])
    got = kernels.gated_activation(torch.cat([gate, torch.ones_like(gate)], dim=1), "silu")
    close(got / gate.abs().clamp(min=1), torch.nn.functional.silu(gate) / gate.abs().clamp(min=1))


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """``x [T, heads, D]`` turned pair by pair as complex numbers: i of the first half with i of the second."""
    half = x.shape[-1] // 2
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1)


@every_kernel
@pytest.mark.parametrize(("H", "Hkv", "D"), [(6, 2, 16), (4, 4, 8), (3, 1, 64), (1, 1, 2)])
def test_rotate_and_store(kernels: TorchKernels, H: int, Hkv: int, D: int) -> None:
    T = 7
    qkv, angles = torch.randn(T, (H + 2 * Hkv) * D), torch.randn(T, D // 2) * 10
    cos, sin = torch.cat([angles.cos()] * 2, dim=-1), torch.cat([-angles.sin(), angles.sin()], dim=-1)
    heads = qkv.clone().view(T, -1, D)
    expected = torch.cat([rotated(heads[:, : H + Hkv], angles), heads[:, H + Hkv :]], dim=1).flatten(1)
    cache = torch.full((20, 2 * Hkv * D), 5.0)
    slots = torch.tensor([19, 0, 3, 4, 11, 7, 2])
    kernels.rotate_and_store(qkv, cos, sin, cache, slots, H, Hkv)
    close(qkv, expected)
    assert torch.equal(cache[slots], qkv[:, H * D :])
    untouched = [slot for slot in range(20) if slot not in slots.tolist()]
    assert (cache[untouched] == 5).all()


@every_kernel
@pytest.mark.parametrize("turned", [0, 2, 6, 10])
def test_only_the_first_numbers_of_a_head_are_turned(kernels: TorchKernels, turned: int) -> None:
    """Where cos and sin are shorter than a head; without any, keys and values are stored as they are."""
    T, H, Hkv, D = 5, 3, 2, 10
    qkv, angles = torch.randn(T, (H + 2 * Hkv) * D), torch.randn(T, turned // 2) * 10
    cos, sin = torch.cat([angles.cos()] * 2, dim=-1), torch.cat([-angles.sin(), angles.sin()], dim=-1)
    heads = qkv.clone().view(T, -1, D)
    both = heads[:, : H + Hkv]
    if turned:
        both[:, :, :turned] = rotated(both[:, :, :turned].clone(), angles)
    cache, slots = torch.zeros(9, 2 * Hkv * D), torch.tensor([8, 0, 3, 4, 1])
    kernels.rotate_and_store(qkv, cos, sin, cache, slots, H, Hkv)
    close(qkv, heads.flatten(1))
    assert torch.equal(cache[slots], qkv[:, H * D :])


@every_kernel
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize(("H", "Hkv", "D", "turned"), [(6, 2, 16, 16), (3, 1, 20, 10), (5, 5, 10, 10), (1, 1, 6, 0)])
def test_norm_rotate_and_store_is_one_after_the_other(
    kernels: TorchKernels, offset: float, H: int, Hkv: int, D: int, turned: int
) -> None:
    T, plain = 5, TorchKernels()
    qkv, angles = torch.randn(T, (H + 2 * Hkv) * D) * 3, torch.randn(T, turned // 2) * 10
    cos, sin = torch.cat([angles.cos()] * 2, dim=-1), torch.cat([-angles.sin(), angles.sin()], dim=-1)
    q_weight, k_weight, slots = torch.rand(D), torch.rand(D), torch.tensor([8, 0, 3, 4, 1])
    expected, cache, kept = qkv.clone(), torch.full((9, 2 * Hkv * D), 5.0), torch.full((9, 2 * Hkv * D), 5.0)
    plain.norm_heads(expected, q_weight, k_weight, 1e-5, H, Hkv, offset)
    plain.rotate_and_store(expected, cos, sin, kept, slots, H, Hkv)
    kernels.norm_rotate_and_store(qkv, q_weight, k_weight, 1e-5, offset, cos, sin, cache, slots, H, Hkv)
    close(qkv, expected)
    close(cache, kept)


@needs_compiler
@given(rows=st.integers(1, 70), N=st.integers(1, 80), K=st.integers(1, 70), bias=st.booleans())
@settings(max_examples=60)
def test_interleaved_linear_is_a_matrix_product(rows: int, N: int, K: int, bias: bool) -> None:
    kernels = cpu.load(torch.float32)
    assert kernels is not None
    x, weight, b = torch.randn(rows, K), torch.randn(N, K), torch.randn(N) if bias else None
    expected = x.double() @ weight.double().T + (b.double() if b is not None else 0)
    got = kernels.linear(x, kernels.interleave(weight), b, N)
    assert got.shape == (rows, N)
    torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=1e-5)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("R", [1, 3, 4, 9])
def test_paged_decode_in_both_dtypes(R: int, dtype: torch.dtype) -> None:
    """In float32 the backends' tests say more; here bf16, whose keys and values are read as they lie."""
    kernels = cpu.load(dtype)
    assert kernels is not None
    H, Hkv, D, S, P = 6, 2, 64, 3, 40
    cache, q = torch.randn(P * S, 2 * Hkv * D).to(dtype), torch.randn(R, H, D).to(dtype)
    lengths = torch.randint(1, 30, (R,))
    table = torch.stack([torch.randperm(P)[:10] for _ in range(R)])
    got = kernels.paged_decode(q, cache, table, lengths, S, Hkv, 0.3).float().view(R, H, D)
    for r in range(R):
        slots = [int(table[r, t // S]) * S + t % S for t in range(int(lengths[r]))]
        kv = cache[slots].double().view(-1, 2, Hkv, D)
        for h in range(H):
            weights = torch.softmax(kv[:, 0, h // 3] @ q[r, h].double() * 0.3, dim=0)
            close(got[r, h], weights @ kv[:, 1, h // 3], dtype)


@needs_compiler
def test_paged_decode_with_scores_far_apart() -> None:
    """The running maximum is corrected when a much higher score comes late, and hopeless ones add nothing, not NaN."""
    kernels = cpu.load(torch.float32)
    assert kernels is not None
    cache = torch.zeros(40, 2, 1, 8)
    cache[:, 0, 0, 0] = torch.linspace(-2000, 2000, 40)
    cache[:, 1, 0, 0] = torch.arange(40)
    got = kernels.paged_decode(
        torch.ones(1, 1, 8), cache.view(40, -1), torch.arange(40)[None], torch.tensor([40]), 1, 1, 1.0
    )
    assert got[0, 0] == 39


def test_kernels_that_cannot_be_had_are_refused_with_the_way_out() -> None:
    with pytest.raises(
        ValueError, match=r"kernels is 'cpu', but .* float32 or bfloat16, and a C\+\+ compiler.*'torch'"
    ):
        choose_kernels("cpu", CPU, torch.float16)
    assert choose_kernels("auto", CPU, torch.float16).name == "torch"
    assert choose_kernels("torch", CPU, torch.float32).name == "torch"


@needs_compiler
def test_the_compiled_library_leaves_denormal_numbers_on() -> None:
    """-ffast-math in any shared library would flush them to zero in the whole process."""
    assert cpu.load(torch.float32) is not None
    tiny = torch.tensor([1e-40])
    assert (tiny * 0.5).item() > 0 and ctypes.c_float(1e-40).value > 0


def test_without_a_compiler_there_are_no_compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    cpu._library.cache_clear()
    try:
        assert cpu.load(torch.float32) is None
        assert choose_kernels("auto", CPU, torch.float32).name == "torch"
        with pytest.raises(ValueError, match=r"a C\+\+ compiler"):
            choose_kernels("cpu", CPU, torch.float32)
    finally:
        cpu._library.cache_clear()


def test_a_compiler_that_fails_leaves_torchs_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    from pathlib import Path

    broken = Path(str(tmp_path)) / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}/cache")
    cpu._library.cache_clear()
    try:
        assert cpu.load(torch.float32) is None
    finally:
        cpu._library.cache_clear()


@needs_compiler
def test_the_library_is_compiled_once_into_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    from pathlib import Path

    home = Path(str(tmp_path)) / "minillm"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        for _ in range(2):
            cpu._library.cache_clear()
            assert cpu.load(torch.float32) is not None
            built = list(home.iterdir())
            assert [path.suffix for path in built] == [".so"]
            first = built[0].stat().st_mtime_ns
        assert built[0].stat().st_mtime_ns == first
    finally:
        cpu._library.cache_clear()
