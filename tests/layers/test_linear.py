"""Tensor-parallel shards, put together, are the whole layer; the all-reduce goes through real processes."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor
from torch.nn import functional as F

from minillm.layers.activation import GatedActivation
from minillm.layers.build import LayerBuild
from minillm.layers.linear import ColumnParallelLinear, LinearBase, QKVParallelLinear, RowParallelLinear
from minillm.layers.shards import WHOLE
from minillm.parallel.group import ParallelGroup
from minillm.quantization.dense import DenseFormat
from minillm.quantization.format import OneFormat

K, N, D = 24, 16, 4
NO_BATCH: Any = None  # whose tokens they are: only adapters look


def on_rank(rank: int, size: int) -> LayerBuild:
    return LayerBuild(group=ParallelGroup(rank, size))


def fill(layer: LinearBase, weights: list[Tensor], biases: list[Tensor] | None = None) -> None:
    """Load a checkpoint's tensors, whole as they are, into this rank's layer."""
    for part, weight in enumerate(weights):
        assert layer.checkpoint_shape("weight", part) == list(weight.shape)
        layer.load("weight", weight, part)
        if biases:
            assert layer.checkpoint_shape("bias", part) == list(biases[part].shape)
            layer.load("bias", biases[part], part)
    layer.process_weights_after_loading()


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_column_parallel_shards_side_by_side_are_the_whole_layer(size: int, bias: bool) -> None:
    """Two parts, as gate and up: each rank has its share of both, gate's above up's."""
    parts = [torch.randn(N, K), torch.randn(8, K)]
    biases = [torch.randn(N), torch.randn(8)] if bias else None
    x = torch.randn(3, K)
    outputs = []
    for rank in range(size):
        layer = ColumnParallelLinear(K, [N, 8], bias, on_rank(rank, size))
        fill(layer, parts, biases)
        outputs.append(layer(x, NO_BATCH).split([N // size, 8 // size], dim=-1))
    for part in range(2):
        whole = F.linear(x, parts[part], biases[part] if biases else None)
        torch.testing.assert_close(torch.cat([output[part] for output in outputs], dim=-1), whole)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_a_checkpoint_may_hold_all_parts_as_one_tensor(size: int, bias: bool) -> None:
    """Phi-3's q, k and v in one: every rank takes from it what it would take from three, two sharing one KV head."""
    parts = [torch.randn(8 * D, K), torch.randn(2 * D, K), torch.randn(2 * D, K)]
    biases = [torch.randn(len(part)) for part in parts] if bias else None
    for rank in range(size):
        one, three = (QKVParallelLinear(K, D, 8, 2, bias, on_rank(rank, size)) for _ in range(2))
        fill(three, parts, biases)
        assert one.checkpoint_shape("weight", WHOLE) == [12 * D, K]
        one.load("weight", torch.cat(parts), WHOLE)
        if biases:
            one.load("bias", torch.cat(biases), WHOLE)
        for loaded, expected in zip(one.parameters(), three.parameters()):
            assert torch.equal(loaded, expected)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_qkv_is_cut_by_heads_and_ranks_share_a_head_where_there_are_too_few(
    size: int, kv_heads: int, bias: bool
) -> None:
    heads = 8
    weights = [torch.randn(count * D, K) for count in (heads, kv_heads, kv_heads)]
    biases = [torch.randn(count * D) for count in (heads, kv_heads, kv_heads)] if bias else None
    x = torch.randn(3, K)
    q, k, v = (F.linear(x, w, biases[i] if biases else None).view(3, -1, D) for i, w in enumerate(weights))
    for rank in range(size):
        layer = QKVParallelLinear(K, D, heads, kv_heads, bias, on_rank(rank, size))
        fill(layer, weights, biases)
        assert layer.num_heads == heads // size and layer.num_kv_heads == max(1, kv_heads // size)
        mine = layer(x, NO_BATCH).view(3, -1, D).split([layer.num_heads, layer.num_kv_heads, layer.num_kv_heads], dim=1)
        first = rank * layer.num_heads
        torch.testing.assert_close(mine[0], q[:, first : first + layer.num_heads])
        # Its key/value heads are those that its query heads look at in the whole layer.
        group = heads // kv_heads
        wanted = sorted({head // group for head in range(first, first + layer.num_heads)})
        torch.testing.assert_close(mine[1], k[:, wanted])
        torch.testing.assert_close(mine[2], v[:, wanted])


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(6, 2, 4), (8, 3, 4), (6, 6, 4), (8, 4, 3), (12, 4, 6)])
def test_heads_are_never_cut_in_pieces(heads: int, kv_heads: int, size: int) -> None:
    """Sizes that divide evenly as numbers, though not as heads, are refused too."""
    with pytest.raises(ValueError, match=r"cannot be split evenly|cannot be shared"):
        QKVParallelLinear(K, 12, heads, kv_heads, False, on_rank(0, size))


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_row_parallel_shards_add_up_to_the_whole_layer(size: int, bias: bool) -> None:
    weight, b = torch.randn(N, K), torch.randn(N) if bias else None
    x = torch.randn(3, K)
    total = torch.zeros(3, N)
    for rank in range(size):
        layer = RowParallelLinear(K, N, bias, on_rank(rank, size))
        fill(layer, [weight], [b] if b is not None else None)
        total += layer.format.apply(layer, x.chunk(size, dim=-1)[rank])  # without the all-reduce
    torch.testing.assert_close(total, F.linear(x, weight, b), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [ColumnParallelLinear, RowParallelLinear])
def test_what_cannot_be_cut_evenly_says_so(layer: type[LinearBase]) -> None:
    with pytest.raises(ValueError, match=r"parallel layer's (inputs|outputs): 10 cannot be split evenly over 4 ranks"):
        layer(10, [10] if layer is ColumnParallelLinear else 10, False, on_rank(0, 4))  # type: ignore[arg-type]


def _rank_main(rank: int, size: int, folder: str) -> None:
    """One process: an MLP cut over the ranks, through real all-reduces."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    tensors = torch.load(f"{folder}/in.pt")
    build = on_rank(rank, size)
    up = ColumnParallelLinear(K, [N], True, build)
    fill(up, [tensors["up"]], [tensors["up_bias"]])
    down = RowParallelLinear(N, K, True, build)
    fill(down, [tensors["down"]], [tensors["down_bias"]])
    torch.save(down(F.silu(up(tensors["x"], NO_BATCH)), NO_BATCH), f"{folder}/out{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(120)
def test_two_processes_compute_what_one_computes() -> None:
    tensors = {
        "x": torch.randn(5, K), "up": torch.randn(N, K), "up_bias": torch.randn(N),
        "down": torch.randn(K, N), "down_bias": torch.randn(K),
    }  # fmt: skip
    hidden = F.silu(F.linear(tensors["x"], tensors["up"], tensors["up_bias"]))
    expected = F.linear(hidden, tensors["down"], tensors["down_bias"])
    with tempfile.TemporaryDirectory() as folder:
        torch.save(tensors, Path(folder) / "in.pt")
        torch.multiprocessing.spawn(_rank_main, args=(2, folder), nprocs=2)
        results = [torch.load(Path(folder) / f"out{rank}.pt") for rank in range(2)]
    assert torch.equal(results[0], results[1])
    torch.testing.assert_close(results[0], expected, atol=1e-5, rtol=1e-5)


def test_a_group_of_one_needs_no_processes() -> None:
    x = torch.randn(3)
    assert ParallelGroup().all_reduce(x) is x


class AtOnce(DenseFormat):
    """Computes gate and up in one, which shows: it answers with sevens."""

    def apply_gated(self, layer: torch.nn.Module, x: Tensor, act: str) -> Tensor | None:
        return torch.full((len(x), N), 7.0) if len(x) == 1 else None


class Doubled(ColumnParallelLinear):
    """A layer that does more than its product, as one with an adapter."""

    def forward(self, x: Tensor, batch: Any) -> Tensor:
        return 2 * super().forward(x, batch)


@pytest.mark.parametrize("kind", [ColumnParallelLinear, Doubled])
@pytest.mark.parametrize("hooked", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_gated_product_never_goes_past_forward(kind: type[ColumnParallelLinear], hooked: bool, rows: int) -> None:
    """A format may compute it at once, unless a hook or a subclass would miss it."""
    build = LayerBuild(formats=OneFormat(AtOnce()))
    layer, act, seen = kind(K, [N, N], False, build), GatedActivation("silu", build), []
    parts = [torch.randn(N, K), torch.randn(N, K)]
    fill(layer, parts)
    if hooked:
        layer.register_forward_hook(lambda _layer, args, out: seen.append((args[1], out.shape)))
    x, batch = torch.randn(rows, K), object()
    got = layer.gated(x, batch, act)  # type: ignore[arg-type]
    if rows == 1 and not hooked and kind is ColumnParallelLinear:
        assert got.eq(7).all()
    else:
        gate, up = (F.linear(x, part) * (2 if kind is Doubled else 1) for part in parts)
        torch.testing.assert_close(got, F.silu(gate) * up)
    assert seen == ([(batch, (rows, 2 * N))] if hooked else [])
