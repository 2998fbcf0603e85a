"""A mixture of experts against a loop over tokens and experts, and against Hugging Face's own blocks."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from paged import all_kernels
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MixtralConfig, Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from minillm.kernels.torch.kernels import TorchKernels
from minillm.layers.build import LayerBuild
from minillm.layers.moe import MixtureOfExperts, MoeShape, group_by_expert, route
from minillm.layers.shards import WHOLE
from minillm.parallel.group import ParallelGroup
from minillm.probe import listen
from minillm.quantization.dense import choose_format
from minillm.quantization.format import OneFormat

H = 24
NO_BATCH: Any = None  # the block only hands it on to its probe


def all_builds(dtype: torch.dtype = torch.float32) -> list[LayerBuild]:
    """Plain torch, and what this machine's CPU has that is faster, packed and not."""
    device = torch.device("cpu")
    builds = [LayerBuild(dtype)]
    for kernels in all_kernels():
        builds += [
            LayerBuild(dtype, OneFormat(choose_format(device, dtype, pack, kernels)), kernels) for pack in (True, False)
        ]
    return builds


def random_weights(E: int, inner: int, seed: int = 0) -> dict[str, Tensor]:
    """The router's matrix, and every expert's three."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"router": (E, H), "gate": (E, inner, H), "up": (E, inner, H), "down": (E, H, inner)}
    return {name: torch.randn(shape, generator=generator) / math.sqrt(shape[-1]) for name, shape in shapes.items()}


def make_moe(
    w: dict[str, Tensor], k: int, renormalise: bool = True, build: LayerBuild | None = None
) -> MixtureOfExperts:
    E, inner, _ = w["gate"].shape
    config: Any = SimpleNamespace(hidden_size=H, hidden_act="silu")
    moe = MixtureOfExperts(config, MoeShape(E, k, inner, renormalise), 0, build or LayerBuild())
    moe.gate.weight.data.copy_(w["router"])
    kinds = {"gate_proj": w["gate"], "up_proj": w["up"], "down_proj": w["down"]}
    for stack in (moe.experts.w13, moe.experts.w2):
        for name, part in stack.checkpoint_tensors("weight"):
            if part != WHOLE:
                expert, kind, _ = name.split(".")
                tensor = kinds[kind][int(expert)]
                assert stack.checkpoint_shape("weight", part) == list(tensor.shape)
                stack.load("weight", tensor, part)
        stack.process_weights_after_loading()
    return moe


def naive(x: Tensor, w: dict[str, Tensor], k: int, renormalise: bool) -> Tensor:
    """Token by token and expert by expert, in float64."""
    out = torch.zeros(len(x), H, dtype=torch.float64)
    weights = {name: tensor.double() for name, tensor in w.items()}
    for t, token in enumerate(x.double()):
        scores = weights["router"] @ token
        p = [math.exp(s) / sum(math.exp(other) for other in scores) for s in scores]
        best = sorted(range(len(p)), key=lambda e: -p[e])[:k]
        total = sum(p[e] for e in best) if renormalise else 1.0
        for e in best:
            inner = F.silu(weights["gate"][e] @ token) * (weights["up"][e] @ token)
            out[t] += p[e] / total * (weights["down"][e] @ inner)
    return out


@pytest.mark.parametrize("build", all_builds(), ids=lambda build: f"{build.kernels.name} {build.format.name}")
@pytest.mark.parametrize(("E", "k", "inner"), [(1, 1, 8), (4, 1, 20), (5, 3, 13), (7, 7, 33), (32, 4, 16)])
@pytest.mark.parametrize("T", [1, 2, 3, 40])
def test_the_block_is_the_loop(T: int, E: int, k: int, inner: int, build: LayerBuild) -> None:
    w, x = random_weights(E, inner), torch.randn(T, H)
    before = x.clone()
    for renormalise in (True, False):
        got = make_moe(w, k, renormalise, build)(x, NO_BATCH)
        torch.testing.assert_close(got.double(), naive(x, w, k, renormalise), atol=2e-6, rtol=2e-5)
    assert torch.equal(x, before)


@pytest.mark.parametrize("T", [1, 2, 40])
@pytest.mark.parametrize("renormalise", [True, False])
def test_the_block_is_hugging_faces(T: int, renormalise: bool) -> None:
    sizes = {"hidden_size": H, "num_experts_per_tok": 3}
    config: Any = Qwen3MoeConfig(num_experts=6, moe_intermediate_size=20, norm_topk_prob=renormalise, **sizes)
    block: Any = Qwen3MoeSparseMoeBlock
    if renormalise:  # Mixtral always does
        config, block = MixtralConfig(num_local_experts=6, intermediate_size=20, **sizes), MixtralSparseMoeBlock
    config._experts_implementation = "eager"
    theirs, w, x = block(config).eval(), random_weights(6, 20), torch.randn(T, H)
    with torch.no_grad():
        theirs.gate.weight.copy_(w["router"])
        theirs.experts.gate_up_proj.copy_(torch.cat([w["gate"], w["up"]], dim=1))
        theirs.experts.down_proj.copy_(w["down"])
        expected = theirs(x[None])[0]
        _, weights, experts = theirs.gate(x)
    got = route(x @ w["router"].T, 3, renormalise)
    torch.testing.assert_close(got[0], weights)
    assert torch.equal(got[1], experts)
    torch.testing.assert_close(make_moe(w, 3, renormalise)(x, NO_BATCH), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("renormalise", [True, False])
def test_routing_by_hand(renormalise: bool) -> None:
    """Probabilities 0.1, 0.4, 0.2, 0.3: the best two are experts 1 and 3."""
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log() + 5  # a softmax does not see what all have in common
    weights, experts = route(logits, 2, renormalise)
    assert experts.tolist() == [[1, 3]]
    torch.testing.assert_close(weights, torch.tensor([[4 / 7, 3 / 7] if renormalise else [0.4, 0.3]]))


def test_routing_is_done_in_float32() -> None:
    """Added up over 1000 experts in bfloat16, a softmax would be off by more than its last bit."""
    logits = torch.randn(3, 1000).bfloat16()
    exact = logits.double().softmax(-1).topk(4, dim=-1)
    weights, experts = route(logits, 4, renormalise=False)
    assert weights.dtype == torch.bfloat16 and torch.equal(experts, exact.indices)
    assert torch.equal(weights, exact.values.float().bfloat16())


@given(st.data())
def test_grouping_is_a_stable_sort(data: st.DataObject) -> None:
    E, T = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, E))
    rows = [data.draw(st.permutations(range(E)))[:k] for _ in range(T)]
    order, counts = group_by_expert(torch.tensor(rows), E)
    choices = [(expert, t * k + j) for t, row in enumerate(rows) for j, expert in enumerate(row)]
    assert order.tolist() == [number for _, number in sorted(choices)]
    assert counts == [sum(expert == e for expert, _ in choices) for e in range(E)]


def test_only_chosen_experts_compute_and_each_once() -> None:
    """The weights of an expert that nobody chose are not even looked at."""
    w, x = random_weights(6, 10), torch.randn(2, H)
    chosen = set(route(x @ w["router"].T, 2, True)[1].flatten().tolist())
    assert len(chosen) < 6
    for e in set(range(6)) - chosen:
        w["gate"][e] = w["up"][e] = w["down"][e] = torch.nan
    moe, seen = make_moe(w, 2), []
    with listen("moe.expert", lambda event: seen.append((event.expert, len(event.rows)))):
        assert not moe(x, NO_BATCH).isnan().any()
    assert [expert for expert, _ in seen] == sorted(chosen) and sum(n for _, n in seen) == 2 * 2


@pytest.mark.parametrize("build", all_builds(), ids=lambda build: f"{build.kernels.name} {build.format.name}")
def test_a_token_does_not_see_who_is_in_the_batch(build: LayerBuild) -> None:
    w, x = random_weights(5, 13), torch.randn(9, H)
    moe = make_moe(w, 2, build=build)
    alone = torch.cat([moe(token[None], NO_BATCH) for token in x])
    torch.testing.assert_close(moe(x, NO_BATCH), alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("stacked", [True, False])
def test_shards_add_up_to_the_whole_and_stacked_tensors_go_to_the_same_places(size: int, stacked: bool) -> None:
    w, x = random_weights(5, 12), torch.randn(7, H)
    weights, experts = route(x @ w["router"].T, 3, True)
    total = torch.zeros(7, H)
    for rank in range(size):
        moe = make_moe(w, 3, build=LayerBuild(group=ParallelGroup(rank, size)))
        w13, w2 = moe.experts.w13, moe.experts.w2
        assert w13.weight.shape == (5, 24 // size, H) and w2.weight.shape == (5, H, 12 // size)
        if stacked:
            for stack, tensor in ((w13, torch.cat([w["gate"], w["up"]], 1)), (w2, w["down"])):
                kept = stack.weight.clone()
                stack.weight.data.zero_()
                assert stack.checkpoint_shape("weight", WHOLE) == list(tensor.shape)
                stack.load("weight", tensor, WHOLE)
                assert torch.equal(stack.weight, kept)
        total += (weights[:, None] @ moe.compute(x, experts))[:, 0]  # without the all-reduce
    torch.testing.assert_close(total.double(), naive(x, w, 3, True), atol=2e-6, rtol=2e-5)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="an expert's intermediate size: 10 cannot be split evenly over 4 ranks"):
        make_moe(random_weights(2, 10), 1, build=LayerBuild(group=ParallelGroup(0, 4)))
    with pytest.raises(ValueError, match="num_experts_per_tok is 3, but there are only 2 experts"):
        MoeShape(2, 3, 10, True)
    for wrong in (0, -1, None, 2.0, True, "8"):
        with pytest.raises(ValueError, match=f"intermediate_size {wrong!r}; it must be"):
            MoeShape(2, 1, wrong, True)  # type: ignore[arg-type]


class Live(TorchDispatchMode):
    """The most bytes that are alive at once, of all tensors made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.storages = {key: entry for key, entry in self.storages.items() if not entry[0].expired()}
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.most = max(self.most, sum(size for _, size in self.storages.values()))
        return out


@pytest.mark.parametrize(("E", "k", "inner"), [(4, 1, 64), (8, 2, 40), (64, 8, 12)])
@pytest.mark.parametrize("same", [True, False], ids=["all to the same experts", "spread"])
def test_the_memory_plan_knows_what_a_step_holds(E: int, k: int, inner: int, same: bool) -> None:
    """What really lives at once is no more than what is planned, and not much less in the worst case."""
    moe, T = make_moe(random_weights(E, inner), k, build=LayerBuild(kernels=TorchKernels())), 512
    x = torch.randn(1 if same else T, H).expand(T, H).contiguous()
    with torch.inference_mode(), Live() as live:
        live.storages[x.untyped_storage()._cdata] = StorageWeakRef(x.untyped_storage()), 0  # planned elsewhere
        moe(x, NO_BATCH)
    held = live.most / x.itemsize / T
    planned = moe.numbers_per_token + H  # and the layer's output, which the plan has among the three of every layer
    assert held <= planned
    assert not same or held > 0.5 * planned
