"""Fusing and cutting, from what formats declare alone: every rank's shards, unpacked, are slices of the whole matrix.

The oracle knows the formats of a checkpoint and nothing of ranks: it unpacks whole tensors, number by number, and cuts
the dense matrix with plain slices.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lookalikes import BlockFp8Like, GptqLike, Tensors, TensorScaleLike, tensors_of
from torch import Tensor
from torch.nn import functional as F

from minillm.layers.build import LayerBuild
from minillm.layers.experts import Experts
from minillm.layers.linear import ColumnParallelLinear, LinearBase, QKVParallelLinear, RowParallelLinear
from minillm.layers.shards import WHOLE
from minillm.parallel.group import ParallelGroup
from minillm.quantization.dense import DenseFormat
from minillm.quantization.format import LinearFormat, OneFormat

NO_BATCH: None = None


def matrix_of(layer: LinearBase) -> Tensor:
    """``[N, K]`` that a loaded layer multiplies with, by multiplying."""
    unit = torch.eye(layer.in_features)
    bias = 0 if layer.bias is None else layer.bias
    return (layer.format.apply(layer, unit) - bias).T


def load(layer: LinearBase, parts: list[Tensors]) -> None:
    for part, tensors in enumerate(parts):
        for name, tensor in tensors.items():
            assert layer.checkpoint_shape(name, part) == list(tensor.shape)
            layer.load(name, tensor, part)


FORMATS = st.sampled_from(
    [DenseFormat(), GptqLike(8), GptqLike(16), GptqLike(8, ordered=False), BlockFp8Like(4), BlockFp8Like(16),
     TensorScaleLike()]
)  # fmt: skip
GRAIN = 16  # of every size here: no format's words, groups or blocks are larger
SIZES = st.sampled_from([1, 2, 4])


@given(
    format=FORMATS,
    size=SIZES,
    K=st.integers(1, 3),
    outputs=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    bias=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_column_parallel_shards_are_rows_of_the_whole_matrix(
    format: LinearFormat, size: int, K: int, outputs: list[int], bias: bool, seed: int
) -> None:
    random, K = torch.Generator().manual_seed(seed), K * GRAIN
    sizes = [count * size * GRAIN for count in outputs]
    parts, matrices = zip(*(tensors_of(format, N, K, random) for N in sizes))
    biases = [torch.randn(N, generator=random) for N in sizes]
    for rank in range(size):
        build = LayerBuild(formats=OneFormat(format), group=ParallelGroup(rank, size), path="model.layers.0.mlp.up")
        layer = ColumnParallelLinear(K, sizes, bias, build)
        load(layer, [{**tensors, **({"bias": b} if bias else {})} for tensors, b in zip(parts, biases)])
        rows = [slice(rank * N // size, (rank + 1) * N // size) for N in sizes]
        mine = torch.cat([matrix[own] for matrix, own in zip(matrices, rows)])
        torch.testing.assert_close(matrix_of(layer), mine)
        if bias:
            assert torch.equal(layer.bias, torch.cat([b[own] for b, own in zip(biases, rows)]))
        x = torch.randn(2, K, generator=random)
        expected = F.linear(x, mine, layer.bias)
        torch.testing.assert_close(layer(x, NO_BATCH), expected, atol=1e-4, rtol=1e-4)  # type: ignore[arg-type]


@given(format=FORMATS, size=SIZES, kv_heads=st.sampled_from([1, 2, 4]), seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_queries_keys_and_values_are_cut_by_heads(format: LinearFormat, size: int, kv_heads: int, seed: int) -> None:
    """More ranks than key/value heads: several hold the same one."""
    random, K, D, heads = torch.Generator().manual_seed(seed), 2 * GRAIN, GRAIN, 4
    q, k, v = (tensors_of(format, count * D, K, random) for count in (heads, kv_heads, kv_heads))
    for rank in range(size):
        build = LayerBuild(formats=OneFormat(format), group=ParallelGroup(rank, size))
        layer = QKVParallelLinear(K, D, heads, kv_heads, False, build)
        load(layer, [q[0], k[0], v[0]])
        first = (
            rank * heads // size
        )  # of its query heads, which look at key/value head number `head * kv_heads // heads`
        own = range(first * kv_heads // heads, ((rank + 1) * heads // size - 1) * kv_heads // heads + 1)
        rows = slice(own.start * D, own.stop * D)
        mine = torch.cat([q[1][first * D : (rank + 1) * heads // size * D], k[1][rows], v[1][rows]])
        torch.testing.assert_close(matrix_of(layer), mine)


@given(
    format=FORMATS, size=SIZES, K=st.integers(1, 2), N=st.integers(1, 3), bias=st.booleans(), seed=st.integers(0, 2**32)
)
@settings(max_examples=60, deadline=None)
def test_row_parallel_shards_are_columns_and_one_rank_adds_the_bias(
    format: LinearFormat, size: int, K: int, N: int, bias: bool, seed: int
) -> None:
    random, K, N = torch.Generator().manual_seed(seed), K * size * GRAIN, N * GRAIN
    tensors, matrix = tensors_of(format, N, K, random)
    b = torch.randn(N, generator=random)
    x = torch.randn(2, K, generator=random)
    total = torch.zeros(2, N)
    for rank in range(size):
        build = LayerBuild(formats=OneFormat(format), group=ParallelGroup(rank, size))
        layer = RowParallelLinear(K, N, bias, build)
        load(layer, [{**tensors, **({"bias": b} if bias else {})}])
        own = slice(rank * K // size, (rank + 1) * K // size)
        torch.testing.assert_close(matrix_of(layer), matrix[:, own])
        total += layer.format.apply(layer, x[:, own])
    torch.testing.assert_close(total, F.linear(x, matrix, b if bias else None), atol=1e-3, rtol=1e-4)


@given(format=FORMATS, size=SIZES, seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_a_checkpoint_that_holds_all_parts_as_one_tensor(format: LinearFormat, size: int, seed: int) -> None:
    """As Phi-3's: the whole is one matrix, with one order of inputs and one scale, of which each part has its rows."""
    random, sizes, K = torch.Generator().manual_seed(seed), [8 * GRAIN, 4 * GRAIN, 4 * GRAIN], 2 * GRAIN
    tensors, matrix = tensors_of(format, sum(sizes), K, random)
    for rank in range(size):
        layer = ColumnParallelLinear(
            K, sizes, False, LayerBuild(formats=OneFormat(format), group=ParallelGroup(rank, size))
        )
        for name, tensor in tensors.items():
            assert layer.checkpoint_shape(name, WHOLE) == list(tensor.shape)
            layer.load(name, tensor, WHOLE)
        parts = [part.chunk(size)[rank] for part in matrix.split(sizes)]
        torch.testing.assert_close(matrix_of(layer), torch.cat(parts))


@given(format=FORMATS, size=SIZES, seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_experts_of_any_format(format: LinearFormat, size: int, seed: int) -> None:
    random, E, H, inner = torch.Generator().manual_seed(seed), 3, GRAIN, 4 * GRAIN
    shapes = {"gate_proj": (inner, H), "up_proj": (inner, H), "down_proj": (H, inner)}
    whole = {f"{e}.{kind}": tensors_of(format, *shape, random) for e in range(E) for kind, shape in shapes.items()}
    x = torch.randn(2, H, generator=random) / 16
    totals = torch.zeros(E, 2, H)
    for rank in range(size):
        build = LayerBuild(
            formats=OneFormat(format), group=ParallelGroup(rank, size), path="model.layers.0.mlp.experts"
        )
        experts = Experts(E, H, inner, "silu", build)
        for stack in (experts.w13, experts.w2):
            for piece, parameter in stack.named_parameters():
                assert len(parameter) == E
                for name, part in stack.checkpoint_tensors(piece):
                    if part != WHOLE:
                        tensor = whole[name.rpartition(".")[0]][0][piece]
                        assert stack.checkpoint_shape(piece, part) == list(tensor.shape)
                        stack.load(piece, tensor, part)
            stack.process_weights_after_loading()
            assert stack.bytes_read == sum(parameter.nbytes for parameter in stack.parameters(recurse=False))
        totals += torch.stack([experts(x, e) for e in range(E)])
    for e in range(E):
        gate, up, down = (whole[f"{e}.{kind}"][1] for kind in shapes)
        expected = F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
        torch.testing.assert_close(totals[e], expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-3)


AT = "model.layers.3.mlp.down_proj"


@pytest.mark.parametrize(
    ("format", "kind", "sizes", "ranks", "says"),
    [
        (GptqLike(8), ColumnParallelLinear, (16, [24]), 2,
         rf"{AT}: 24 outputs in 2 shards are 12 each, but an entry of its 'qzeros' is for 8 outputs together"),
        (GptqLike(16), RowParallelLinear, (48, 16), 2,
         rf"{AT}: 48 inputs in 2 shards are 24 each, but an entry of its 'qzeros' is for 16 inputs together"),
        (GptqLike(8), RowParallelLinear, (48, 16), 4, r"48 inputs .* 12 each, .*'qweight' is for 8 inputs"),
        (BlockFp8Like(16), ColumnParallelLinear, (8, [48, 40]), 2, r"48 outputs .* 24 each, .*'weight_sc.*' .* 16"),
        (BlockFp8Like(16), RowParallelLinear, (40, 8), 2, r"40 inputs .* 20 each, .*'weight_scale_inv' .* 16 inputs"),
    ],
)  # fmt: skip
def test_a_cut_through_a_word_or_a_group_is_refused(
    format: LinearFormat, kind: type[LinearBase], sizes: tuple, ranks: int, says: str
) -> None:
    for rank in range(ranks):
        build = LayerBuild(formats=OneFormat(format), group=ParallelGroup(rank, ranks), path=AT)
        with pytest.raises(ValueError, match=says) as caught:
            kind(*sizes, False, build)
        assert "take fewer ranks" in str(caught.value)
    kind(*sizes, False, LayerBuild(formats=OneFormat(format), path=AT))  # one rank has nothing to cut


def test_a_matrix_that_a_format_cannot_hold_is_named() -> None:
    with pytest.raises(ValueError, match=rf"{AT}: like GPTQ cannot hold this layer: 20 inputs and 8 outputs do"):
        RowParallelLinear(20, 8, False, LayerBuild(formats=OneFormat(GptqLike(8)), path=AT))


def test_a_word_between_two_parts_is_refused() -> None:
    layer = ColumnParallelLinear(8, [24, 40], False, LayerBuild(formats=OneFormat(BlockFp8Like(16)), path=AT))
    with pytest.raises(ValueError, match=rf"{AT}: the checkpoint holds parts of \[24, 40\] .* 16 outputs together"):
        layer.load("weight_scale_inv", torch.ones(4, 1), WHOLE)


def test_numbers_of_another_kind_are_refused() -> None:
    layer = RowParallelLinear(16, 8, False, LayerBuild(formats=OneFormat(GptqLike(8)), path=AT))
    with pytest.raises(ValueError, match=rf"{AT}: the checkpoint's qweight holds torch.float32, and torch.int32"):
        layer.load("qweight", torch.zeros(2, 8), 0)
