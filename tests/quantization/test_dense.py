"""Packed weights are the same numbers in another order: the products are the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_model
from workload import make_engine

from minillm.kernels.cpu import kernels as cpu
from minillm.kernels.torch.kernels import TorchKernels
from minillm.layers.build import LayerBuild
from minillm.layers.embedding import Embedding, LMHead
from minillm.layers.linear import ColumnParallelLinear, Formatted
from minillm.quantization.dense import DenseFormat, InterleavedFormat, OneDnnFormat, choose_format, packing_works
from minillm.quantization.format import LinearFormat, OneFormat

CPU = torch.device("cpu")
NO_BATCH: Any = None


def formats() -> list[tuple[LinearFormat, torch.dtype]]:
    found: list[tuple[LinearFormat, torch.dtype]] = []
    found += [(OneDnnFormat(), dtype) for dtype in (torch.float32, torch.bfloat16) if packing_works(dtype)]
    loaded = [(cpu.load(dtype), dtype) for dtype in (torch.float32, torch.bfloat16)]
    return found + [(InterleavedFormat(one), dtype) for one, dtype in loaded if one and one.can_interleave(dtype)]


FORMATS = formats()


def test_this_machine_can_pack_at_all() -> None:
    """Otherwise what follows would test nothing, and nobody would notice."""
    assert FORMATS


@given(
    chosen=st.sampled_from(FORMATS),
    rows=st.integers(1, 40),
    K=st.integers(1, 70),
    N=st.integers(1, 70),
    bias=st.booleans(),
)
@settings(max_examples=60)
def test_packed_layers_compute_what_dense_ones_do(
    chosen: tuple[LinearFormat, torch.dtype], rows: int, K: int, N: int, bias: bool
) -> None:
    format, dtype = chosen
    weight, b, x = torch.randn(N, K).to(dtype), torch.randn(N).to(dtype), torch.randn(rows, K).to(dtype)
    outputs = []
    for one in (DenseFormat(), format):
        layer = ColumnParallelLinear(K, [N], bias, LayerBuild(dtype, OneFormat(one)))
        layer.load("weight", weight, 0)
        if bias:
            layer.load("bias", b, 0)
        layer.process_weights_after_loading()
        outputs.append(layer(x, NO_BATCH))
    assert outputs[1].dtype == dtype
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(outputs[1], outputs[0], atol=tolerance * K**0.5, rtol=tolerance)


@pytest.mark.parametrize("chosen", FORMATS, ids=lambda chosen: f"{chosen[0].name}-{chosen[1]}")
def test_packing_gives_the_plain_weight_up_unless_an_embedding_shares_it(
    chosen: tuple[LinearFormat, torch.dtype],
) -> None:
    format, dtype = chosen
    for tied in (True, False):
        embedding = Embedding(33, 16, LayerBuild(dtype))
        embedding.weight.data.normal_()
        head = LMHead(embedding, tied, LayerBuild(dtype, OneFormat(format)))
        head.weight.data.copy_(embedding.weight)
        hidden, ids = torch.randn(3, 16).to(dtype), torch.tensor([1, 32])
        expected, rows = hidden.float() @ embedding.weight.float().T, embedding.weight[ids].clone()
        head.process_weights_after_loading()
        assert (head.weight is None) == (not tied)
        torch.testing.assert_close(head(hidden).float(), expected, atol=5e-2, rtol=2e-2)
        assert torch.equal(embedding(ids), rows)


def test_the_choice_of_a_format() -> None:
    plain = TorchKernels()
    assert type(choose_format(CPU, torch.float32, False, plain)) is DenseFormat
    assert type(choose_format(CPU, torch.float16, True, plain)) is DenseFormat
    assert type(choose_format(torch.device("cuda"), torch.bfloat16, True, plain)) is DenseFormat
    if packing_works(torch.bfloat16):
        assert type(choose_format(CPU, torch.bfloat16, True, plain)) is OneDnnFormat
    if kernels := cpu.load(torch.float32):
        assert type(choose_format(CPU, torch.float32, True, kernels)) is InterleavedFormat


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("settings", [{}, {"kernels": "torch"}, {"pack_weights": False}], ids=str)
@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_the_memory_plan_counts_the_weights_that_there_are(
    tmp_path: Path, kind: str, tied: bool, settings: dict[str, Any]
) -> None:
    """Every tensor that the loaded model holds, packed or not, is in the plan. (Sizes that packing need not pad.)"""
    sizes = {"vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    make_model(tmp_path, kind, tie_word_embeddings=tied, **sizes)
    engine = make_engine(tmp_path, **settings)
    held = {p.data_ptr(): p.nbytes for p in engine.model.parameters()}
    experts = [matrix for module in engine.model.modules() for matrix in getattr(module, "matrices", [])]
    for module in (*engine.model.modules(), *experts):
        packed = getattr(module, "packed", None)
        if packed is not None:
            held[id(packed)] = packed.nbytes
    assert len(held) > len(list(engine.model.parameters())) or not any(m.format.copies for m in formatted(engine.model))
    assert engine.memory.weights == pytest.approx(sum(held.values()), rel=0.001)


def formatted(model: torch.nn.Module) -> list[Formatted]:
    return [module for module in model.modules() if isinstance(module, Formatted)]
