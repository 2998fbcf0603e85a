"""What a subclass of the attention layer overrides is what computes, whether somebody listens or not."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import LLAMA
from torch import Tensor

from minillm.layers.attention import Attention, NormedAttention, stands_for
from minillm.layers.build import LayerBuild
from minillm.model_config import ModelConfig
from minillm.probe import listen

CONFIG = ModelConfig.from_dict({**LLAMA, "architectures": ["Qwen3ForCausalLM"]})


class OwnPreparation(NormedAttention):
    """As the page "Add your own model" says: what happens to the heads is `prepare_heads`."""

    def prepare_heads(self, qkv: Tensor) -> None:
        super().prepare_heads(qkv)
        qkv.mul_(3)


class OwnTurn(NormedAttention):
    def turn_prepared(self, qkv: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor) -> None:
        super().turn_prepared(qkv.mul_(3), cos, sin, cache, slots)


class OwnBoth(OwnPreparation):
    """With a kernel of its own for the two, which is then used."""

    used = 0

    @stands_for(OwnPreparation.prepare_heads, NormedAttention.turn_prepared)
    def turn_and_store(self, qkv: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor) -> None:
        self.used += 1
        self.prepare_heads(qkv)
        self.turn_prepared(qkv, cos, sin, cache, slots)


def compute(attention: Attention, watched: bool) -> tuple[Tensor, Tensor]:
    """What goes to the backend as queries, and what is stored, for five tokens."""
    T, D = 5, CONFIG.head_dim
    generator = torch.Generator().manual_seed(0)
    for parameter in attention.parameters():
        parameter.data.normal_(1, 0.3, generator=generator)
    cache, seen = torch.zeros(T, 2 * attention.num_kv_heads * D), []
    angles = torch.rand(T, D, generator=generator)

    def attend(_layer: int, q: Tensor, *_rest: Any) -> Tensor:
        seen.append(q.clone())
        return q.flatten(1)

    batch: Any = SimpleNamespace(
        rope=(angles.cos(), angles.sin()), slots=torch.arange(T), backend=SimpleNamespace(attend=attend),
        kv_cache=[SimpleNamespace(slots=cache)],
    )  # fmt: skip
    with listen("kv.store", lambda event: None) if watched else nullcontext():
        attention(torch.randn(T, CONFIG.hidden_size, generator=generator), batch)
    return seen[0], cache


@pytest.mark.parametrize("kind", [NormedAttention, OwnPreparation, OwnTurn, OwnBoth])
def test_the_same_is_computed_whether_somebody_listens_or_not(kind: type[Attention]) -> None:
    alone, watched = (compute(kind(CONFIG, 0, LayerBuild()), listens) for listens in (False, True))
    for mine, other in zip(alone, watched):
        torch.testing.assert_close(mine, other)
    usual = compute(NormedAttention(CONFIG, 0, LayerBuild()), False)
    assert torch.allclose(alone[0], usual[0]) == (kind is NormedAttention)


def test_one_kernel_for_both_is_used_where_it_does_what_the_two_do() -> None:
    fuses = {
        kind: kind(CONFIG, 0, LayerBuild()).fuses for kind in (Attention, NormedAttention, OwnPreparation, OwnTurn)
    }
    assert fuses == {Attention: False, NormedAttention: True, OwnPreparation: False, OwnTurn: False}
    own = OwnBoth(CONFIG, 0, LayerBuild())
    compute(own, watched=False)
    assert own.used == 1
