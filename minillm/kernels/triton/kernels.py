"""The kernels written in Triton, behind the interface that all kernels have. Importing this imports triton."""

import torch
from torch import Tensor

from minillm.kernels.torch.kernels import TorchKernels
from minillm.kernels.triton import activation as triton_activation
from minillm.kernels.triton import norm as triton_norm
from minillm.kernels.triton import rotary as triton_rotary
from minillm.kernels.triton import rows as triton_rows
from minillm.kernels.triton.activation import GATES


class TritonKernels(TorchKernels):
    """One launch each, everything read and written once; what is not here, torch does."""

    name = "triton"
    few_rows_is_faster, gates = staticmethod(triton_rows.few_rows_is_faster), GATES

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, add: Tensor | None = None) -> Tensor:
        return self.offset_rms_norm(x, weight, eps, 0.0, add)

    def offset_rms_norm(
        self, x: Tensor, weight: Tensor, eps: float, offset: float, add: Tensor | None = None
    ) -> Tensor:
        if x.shape[1] > triton_norm.MOST_COLUMNS:
            return super().offset_rms_norm(x, weight, eps, offset, add)
        return triton_norm.rms_norm(x, weight, eps, offset, add)

    def gated_activation(self, gate_up: Tensor, act: str) -> Tensor:
        if act not in GATES:
            return super().gated_activation(gate_up, act)
        return triton_activation.gated_activation(gate_up, act)

    def rotate_and_store(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor, num_heads: int, num_kv_heads: int
    ) -> None:
        """A token whose slot is negative is turned and stored nowhere."""
        triton_rotary.norm_rotate_and_store(qkv, None, cos, sin, cache, slots, num_heads, num_kv_heads)

    def norm_rotate_and_store(
        self,
        qkv: Tensor,
        q_weight: Tensor,
        k_weight: Tensor,
        eps: float,
        offset: float,
        cos: Tensor,
        sin: Tensor,
        cache: Tensor,
        slots: Tensor,
        num_heads: int,
        num_kv_heads: int,
    ) -> None:
        norm = q_weight, k_weight, eps, offset
        triton_rotary.norm_rotate_and_store(qkv, norm, cos, sin, cache, slots, num_heads, num_kv_heads)

    def few_rows_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x [T, K]`` times ``weight [N, K]``, plus ``bias [N]`` -> ``[T, N]``; for sizes of `few_rows_is_faster`."""
        return triton_rows.few_rows_linear(x, weight, bias)

    def one_row_gated(self, x: Tensor, weight: Tensor, bias: Tensor | None, act: str) -> Tensor:
        """`gated_activation` of ``x [1, K]`` times ``weight [2 * I, K]``, plus ``bias [2 * I]`` -> ``[1, I]``."""
        return triton_rows.one_row_gated(x, weight, bias, act)


def try_all(kernels: TritonKernels, device: torch.device, dtype: torch.dtype) -> None:
    """Compile and run each kernel once, on something small, beside its twin in torch.

    RuntimeError names the kernel that gives something else; whatever its compiler raises goes on to the caller.
    """
    twin, T, H, Hkv, D = TorchKernels(), 3, 4, 2, 16
    with torch.inference_mode():
        x, more, weight, matrix = (
            torch.linspace(-1, 2, size, dtype=dtype, device=device).cos() for size in (T * D, T * D, D, 4 * D * D)
        )
        x, more, matrix = x.view(T, D), more.view(T, D), matrix.view(4 * D, D)
        qkv = torch.linspace(-3, 3, T * (H + 2 * Hkv) * D, dtype=dtype, device=device).view(T, -1)
        slots, nothing = torch.arange(T, device=device), torch.zeros(T, 2 * Hkv * D, dtype=dtype, device=device)
        pairs: dict[str, list[Tensor]] = {}
        for one in (kernels, twin):
            stream, heads, cache = x.clone(), qkv.clone(), nothing.clone()
            pairs.setdefault("rms_norm", []).append(one.rms_norm(stream, weight, 1e-5, more))
            pairs.setdefault("the residual stream", []).append(stream)
            for act in GATES:
                pairs.setdefault(f"gated_activation {act}", []).append(one.gated_activation(x, act))
            one.norm_rotate_and_store(heads, weight, weight, 1e-5, 1.0, x, more, cache, slots, H, Hkv)
            one.rotate_and_store(heads, x, more, cache, slots, H, Hkv)
            pairs.setdefault("rotate_and_store", []).append(cache)
        pairs["few_rows_linear"] = [kernels.few_rows_linear(x, matrix, None), x @ matrix.T]
        gated = twin.gated_activation(x[:1] @ matrix.T, "silu")
        pairs["one_row_gated"] = [kernels.one_row_gated(x[:1], matrix, None, "silu"), gated]
    for name, (got, expected) in pairs.items():
        if not torch.allclose(got.float(), expected.float(), rtol=0.05, atol=0.05):
            raise RuntimeError(f"{name} gives another result than torch does")
