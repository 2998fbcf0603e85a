"""Two or four ranks, each with its shards of every layer and the keys and values of its own heads, compute what one
rank computes that has the whole model: shapes and cutting are right before there are ranks in other processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bare import Bare
from ranks import FakeGroup, on_every_rank
from tiny import make_model
from tiny_moe import make_moe, stack_experts
from torch import Tensor

from minillm.kernels.cpu import kernels as cpu
from minillm.layers.build import LayerBuild
from minillm.layers.embedding import Embedding, LMHead
from minillm.quantization.dense import choose_format
from minillm.quantization.format import OneFormat

HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2}  # of which four ranks share each key/value head by two
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {**HEADS, "attention_bias": True, "mlp_bias": True}),
    "llama-tied": ("llama", {**HEADS, "tie_word_embeddings": True}),
    "llama-4-kv-heads": ("llama", {"num_attention_heads": 8, "num_key_value_heads": 4}),
    "qwen2": ("qwen2", HEADS),
    "qwen3": ("qwen3", HEADS),
    "phi3": ("phi3", HEADS),  # q, k and v in one tensor
    "gemma3": ("gemma3_text", HEADS),
    "nanochat": ("nanochat", HEADS),
    "opt": ("opt", {"num_attention_heads": 8}),
    "opt-350m": ("opt", {"num_attention_heads": 8, "word_embed_proj_dim": 24, "do_layer_norm_before": False}),
    "mixtral": ("mixtral", HEADS),
    "mixtral-stacked": ("mixtral", HEADS),
    "qwen3-moe": ("qwen3_moe", HEADS),
}


def make(folder: Path, name: str) -> None:
    kind, fields = MODELS[name]
    if kind in ("mixtral", "qwen3_moe"):
        model = make_moe(folder, kind, **fields)
        if name.endswith("stacked"):
            stack_experts(folder, model)
    else:
        make_model(folder, kind, **fields)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_the_ranks_together_compute_the_whole_models_logits(name: str, size: int, tmp_path: Path) -> None:
    make(tmp_path, name)
    whole = Bare(tmp_path)
    expected = whole.walk()  # [9, V]
    numbers = sum(parameter.numel() for parameter in whole.model.parameters())

    def rank(group: FakeGroup) -> tuple[Tensor, int]:
        mine = Bare(tmp_path, LayerBuild(group=group))
        return mine.walk(), sum(parameter.numel() for parameter in mine.model.parameters())

    for logits, held in on_every_rank(size, rank):
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)
        assert held < 0.75 * numbers, "each rank holds less than the whole model"


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", ["llama-tied", "qwen3-moe"])
def test_packed_formats_pack_each_ranks_own_shards(name: str, size: int, tmp_path: Path) -> None:
    make(tmp_path, name)
    kernels = cpu.load(torch.float32)
    if kernels is None:
        pytest.skip("no compiler here: nothing to pack for")
    format = choose_format(torch.device("cpu"), torch.float32, True, kernels)
    assert format.copies
    expected = Bare(tmp_path).walk()
    for logits in on_every_rank(
        size, lambda group: Bare(tmp_path, LayerBuild(formats=OneFormat(format), kernels=kernels, group=group)).walk()
    ):
        torch.testing.assert_close(logits, expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("vocab", "size"), [(8, 2), (9, 2), (101, 4), (5, 4), (3, 4)])
def test_a_vocabulary_of_any_size(vocab: int, size: int, tied: bool) -> None:
    """Ranks hold equally many rows; what is too many is nobody's, at the end, and never seen."""
    table, own, hidden = torch.randn(vocab, 6), torch.randn(vocab, 6), torch.randn(4, 6)
    ids = torch.arange(vocab).repeat(2)

    def rank(group: FakeGroup) -> tuple[Tensor, Tensor]:
        build = LayerBuild(group=group)
        embedding = Embedding(vocab, 6, build.at("embed_tokens"))
        assert embedding.weight.shape == (-(-vocab // size), 6)
        assert embedding.checkpoint_shape("weight", 0) == [vocab, 6]
        head = LMHead(embedding, tied, build.at("lm_head"))
        assert (head.weight is embedding.weight) == tied
        embedding.load("weight", table, 0)
        if not tied:
            head.load("weight", own, 0)
        return embedding(ids), head(hidden)

    for vectors, logits in on_every_rank(size, rank):
        assert torch.equal(vectors, table[ids])
        torch.testing.assert_close(logits, hidden @ (table if tied else own).T)


def test_an_error_on_one_rank_ends_all() -> None:
    def rank(group: FakeGroup) -> None:
        if group.rank == 1:
            raise ValueError("rank 1 says no")
        group.all_reduce(torch.zeros(1))

    with pytest.raises(ValueError, match="rank 1 says no"):
        on_every_rank(2, rank)
