"""Formats that hold their numbers as GPTQ and FP8 do, for tests of what must not know them: fusing, cutting, loading.

Plain arithmetic, no kernels. Below are a checkpoint's tensors for a random matrix, beside that matrix, which is made
number by number and of nothing that the formats use: the oracle.
"""

from typing import Any

import torch
from torch import Tensor

from minillm.quantization.format import Along, LinearFormat, Piece

Tensors = dict[str, Tensor]


def unpack(words: Tensor, dim: int, bits: int = 4) -> Tensor:
    """Numbers of ``bits`` out of words of 32, least significant first, along ``dim``."""
    each = 32 // bits
    shifts = torch.arange(each) * bits
    values = (words.movedim(dim, -1)[..., None].long() >> shifts) & (2**bits - 1)
    return values.flatten(-2).movedim(-1, dim)


class GptqLike(LinearFormat):
    """qweight [K/8, N], eight inputs a word; qzeros [G, N/8], eight outputs a word; scales [G, N]; g_idx [K].

    ordered: whether the groups lie one after the other; else any input may be of any group, and ranks that cut K each
    need all scales.
    """

    name = "like GPTQ"

    def __init__(self, group: int, ordered: bool = True) -> None:
        self.group, self.ordered = group, ordered

    def pieces(self, in_features: int, out_features: int, dtype: torch.dtype) -> list[Piece]:
        K, N, G = in_features, out_features, in_features // self.group
        if K % 8 or N % 8 or K % self.group:
            raise ValueError(f"{K} inputs and {N} outputs do not fill words of 8 and groups of {self.group}")
        by_group = Along(0, self.group) if self.ordered else None
        return [
            Piece("qweight", (K // 8, N), torch.int32, n=Along(1), k=Along(0, 8)),
            Piece("qzeros", (G, N // 8), torch.int32, n=Along(1, 8), k=by_group),
            Piece("scales", (G, N), dtype, n=Along(1), k=by_group),
            Piece("g_idx", (K,), torch.int32, k=Along(0)),
        ]

    def apply(self, layer: Any, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.matrix(layer), layer.bias)

    def matrix(self, layer: Any) -> Tensor:
        """``[N, K]`` of what a layer holds, part by part."""
        q, zeros, first, parts = unpack(layer.qweight, 0), unpack(layer.qzeros, 1), 0, []
        for part, size in enumerate(layer.parts):
            groups = layer.g_idx[part].long()
            if self.ordered:
                groups = groups - groups.min()  # the rank has its own groups' scales alone
            mine = slice(first, first + size)
            parts.append(layer.scales[groups, mine] * (q[:, mine] - zeros[groups, mine]))
            first += size
        return torch.cat(parts, dim=1).T


class BlockFp8Like(LinearFormat):
    """weight [N, K] in 8 bits, and a scale for every block of it: weight_scale_inv [ceil(N/B), ceil(K/B)]."""

    name = "like block FP8"

    def __init__(self, block: int) -> None:
        self.block = block

    def pieces(self, in_features: int, out_features: int, dtype: torch.dtype) -> list[Piece]:
        K, N, B = in_features, out_features, self.block
        return [
            Piece("weight", (N, K), torch.float8_e4m3fn, n=Along(0), k=Along(1)),
            Piece("weight_scale_inv", (-(-N // B), -(-K // B)), torch.float32, n=Along(0, B), k=Along(1, B)),
        ]

    def apply(self, layer: Any, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.matrix(layer), layer.bias)

    def matrix(self, layer: Any) -> Tensor:
        B, first, parts = self.block, 0, []
        rows = 0
        for size in layer.parts:
            weight, blocks = layer.weight[first : first + size].float(), -(-size // B)
            scales = layer.weight_scale_inv[rows : rows + blocks].repeat_interleave(B, 0).repeat_interleave(B, 1)
            parts.append(weight * scales[:size, : weight.shape[1]])
            first, rows = first + size, rows + blocks
        return torch.cat(parts)


class TensorScaleLike(LinearFormat):
    """weight [N, K] in 8 bits with one scale for all of it: of a fused layer, one a part."""

    name = "like per-tensor FP8"

    def pieces(self, in_features: int, out_features: int, dtype: torch.dtype) -> list[Piece]:
        return [
            Piece("weight", (out_features, in_features), torch.float8_e4m3fn, n=Along(0), k=Along(1)),
            Piece("weight_scale", (), torch.float32),
        ]

    def apply(self, layer: Any, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.matrix(layer), layer.bias)

    def matrix(self, layer: Any) -> Tensor:
        scales = torch.repeat_interleave(layer.weight_scale, torch.tensor(layer.parts))
        return layer.weight.float() * scales[:, None]


def gptq_tensors(N: int, K: int, group: int, ordered: bool, random: torch.Generator) -> tuple[Tensors, Tensor]:
    """A checkpoint's tensors for a random matrix, and that matrix ``[N, K]``, made of loops over numbers."""
    G = K // group
    q, z = (torch.randint(16, shape, generator=random) for shape in ((K, N), (G, N)))
    scales = torch.rand(G, N, generator=random) + 0.5
    g_idx = torch.arange(K) // group
    if not ordered:
        g_idx = g_idx[torch.randperm(K, generator=random)]
    qweight, qzeros = torch.zeros(K // 8, N, dtype=torch.int64), torch.zeros(G, N // 8, dtype=torch.int64)
    for i in range(8):
        qweight += q[i::8] << 4 * i
        qzeros += z[:, i::8] << 4 * i
    matrix = scales[g_idx] * (q - z[g_idx])  # [K, N]
    words = {name: (w - (w >= 2**31) * 2**32).int() for name, w in (("qweight", qweight), ("qzeros", qzeros))}
    return {**words, "scales": scales, "g_idx": g_idx.int()}, matrix.T.contiguous()


def block_tensors(N: int, K: int, block: int, random: torch.Generator) -> tuple[Tensors, Tensor]:
    weight = torch.randn(N, K, generator=random).to(torch.float8_e4m3fn)
    scales = torch.rand(-(-N // block), -(-K // block), generator=random) + 0.5
    matrix = weight.float()
    for n in range(N):
        for k in range(K):
            matrix[n, k] *= scales[n // block, k // block]
    return {"weight": weight, "weight_scale_inv": scales}, matrix


def scaled_tensors(N: int, K: int, random: torch.Generator) -> tuple[Tensors, Tensor]:
    weight = torch.randn(N, K, generator=random).to(torch.float8_e4m3fn)
    scale = torch.rand((), generator=random) + 0.5
    return {"weight": weight, "weight_scale": scale}, weight.float() * scale


def tensors_of(format: LinearFormat, N: int, K: int, random: torch.Generator) -> tuple[Tensors, Tensor]:
    if isinstance(format, GptqLike):
        return gptq_tensors(N, K, format.group, format.ordered, random)
    if isinstance(format, BlockFp8Like):
        return block_tensors(N, K, format.block, random)
    if isinstance(format, TensorScaleLike):
        return scaled_tensors(N, K, random)
    weight = torch.randn(N, K, generator=random)
    return {"weight": weight}, weight
