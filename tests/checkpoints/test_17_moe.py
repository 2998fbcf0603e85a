"""Checkpoint 17: who computes a token, and tokens grouped by expert. Oracles: Hugging Face's routers, plain loops."""

import math
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from exercises import close, jobs_for, random, tokens_of_hugging_face, whole_numbers
from tiny import Oracle
from tiny_moe import make_moe
from torch import Tensor
from transformers import MixtralConfig, Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from minillm.layers import moe


@cache
def mixture(kind: str) -> Oracle:
    """A tiny mixture of experts with random weights, and Hugging Face's model of it."""
    folder = Path(tempfile.mkdtemp(prefix="minillm-moe-"))
    return Oracle(folder, make_moe(folder, kind, vocab_size=258))


def same_experts(got: Any, right: Tensor, what: str) -> None:
    """Experts [T, k], in their order."""
    assert list(got.shape) == list(right.shape), (
        f"{what}: the experts have the shape {list(got.shape)}; [token, choice] is {list(right.shape)}"
    )
    kind = str(got.dtype).removeprefix("torch.")
    assert kind == "int64", f"{what}: the experts' numbers are of type {kind}, and int64 is right"
    for token, (mine, theirs) in enumerate(zip(got.tolist(), right.tolist())):
        assert mine == theirs, f"{what}: token {token} goes to experts {mine}, and {theirs} is right"


class TestRoute:
    """17.1"""

    def test_by_hand(self) -> None:
        logits = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.7, 0.05, 0.05, 0.2]]).log()
        weights, experts = moe.route(logits, 2, False)
        same_experts(experts, torch.tensor([[1, 3], [0, 3]]), "probabilities 10% 40% 20% 30%, and 70% 5% 5% 20%")
        close(
            weights, torch.tensor([[0.4, 0.3], [0.7, 0.2]]), "renormalise=False, so the probabilities", "token choice"
        )
        weights, _ = moe.route(logits, 2, True)
        right = torch.tensor([[4 / 7, 3 / 7], [7 / 9, 2 / 9]])
        close(weights, right, "renormalise=True, so each token's weights add up to one", "token choice")

    def test_the_softmax_is_over_all_experts(self) -> None:
        logits = random(5, 7, scale=2.0)
        weights, _ = moe.route(logits, 3, False)
        right = torch.tensor([self.by_loop(row)[:3] for row in logits.tolist()])
        close(weights, right, "3 of 7 experts, renormalise=False", "token choice")

    @staticmethod
    def by_loop(scores: list[float]) -> list[float]:
        """A token's probabilities, the largest first."""
        powers = [math.exp(score) for score in scores]
        return sorted((power / sum(powers) for power in powers), reverse=True)

    def test_it_is_what_hugging_face_routes(self) -> None:
        for k, renormalise in ((1, True), (2, True), (3, False), (7, False), (7, True)):
            sizes: dict[str, Any] = {"hidden_size": 24, "num_experts_per_tok": k}
            theirs: Any = Qwen3MoeTopKRouter(Qwen3MoeConfig(num_experts=7, norm_topk_prob=renormalise, **sizes))
            if renormalise:  # Mixtral always does
                theirs = MixtralTopKRouter(MixtralConfig(num_local_experts=7, **sizes))
            x, matrix = random(40, 24, seed=k), random(7, 24, seed=10 + k, scale=0.3)
            with torch.no_grad():
                theirs.weight.copy_(matrix)
                _, right, chosen = theirs(x)
            weights, experts = moe.route(x @ matrix.T, k, renormalise)
            what = f"{k} of 7 experts, renormalise={renormalise}"
            same_experts(experts, chosen, what)
            close(weights, right.reshape(40, k), what, "token choice")

    def test_many_experts_in_low_precision(self) -> None:
        logits = random(3, 1000, seed=1).bfloat16()
        weights, experts = moe.route(logits, 4, True)
        exact = logits.double().softmax(dim=-1).topk(4, dim=-1)
        assert weights.dtype == torch.bfloat16, (
            f"the logits of these tokens are bfloat16, so the weights should be too; they are {weights.dtype}"
        )
        same_experts(experts, exact.indices, "4 of 1000 experts")
        right = (exact.values / exact.values.sum(dim=-1, keepdim=True)).bfloat16()
        close(weights, right, "computed in float32 and then rounded, 4 of 1000 experts", "token choice", 1e-7)

    def test_the_engine_writes_the_right_tokens(self) -> None:
        for kind in ("qwen3_moe", "mixtral"):
            tokens_of_hugging_face(mixture(kind), jobs_for(max_tokens=6))


CHOICES = [[2, 0], [1, 2], [0, 2], [5, 1]]  # of tokens 0 to 3, among experts 0 to 5


class TestGroupByExpert:
    """17.2"""

    @staticmethod
    def by_loop(choices: list[list[int]], num_experts: int) -> tuple[list[int], list[int]]:
        """Expert after expert, look through all tokens for those that chose it."""
        order, counts = [], []
        for expert in range(num_experts):
            mine = [
                t * len(of_token) + j
                for t, of_token in enumerate(choices)
                for j, one in enumerate(of_token)
                if one == expert
            ]
            order += mine
            counts.append(len(mine))
        return order, counts

    def grouped(self, choices: list[list[int]], num_experts: int) -> None:
        order, counts = moe.group_by_expert(torch.tensor(choices), num_experts)
        right_order, right_counts = self.by_loop(choices, num_experts)
        what = f"{len(choices)} tokens chose {choices[:6]}{'...' if len(choices) > 6 else ''} of {num_experts} experts"
        assert counts == right_counts, f"{what}: the counts are {counts}, and {right_counts} is right"
        places = whole_numbers(order, right_order, f"{what}: the places in the order", "choice")
        assert places == right_order, (
            f"{what}: the order is {places[:12]}, and {right_order[:12]} is right: choice number t * k + j is "
            "token t's choice j"
        )

    def test_by_hand(self) -> None:
        assert self.by_loop(CHOICES, 6) == ([1, 4, 2, 7, 0, 3, 5, 6], [2, 2, 3, 0, 0, 1])
        self.grouped(CHOICES, 6)

    def test_experts_that_nobody_chose_count_zero(self) -> None:
        self.grouped([[0, 1], [1, 0]], 8)

    def test_one_token_and_one_expert(self) -> None:
        self.grouped([[3, 1, 2]], 5)
        self.grouped([[0]] * 4, 1)

    def test_many_tokens_keep_their_order(self) -> None:
        for seed, (T, E, k) in enumerate([(200, 8, 2), (64, 5, 5), (300, 3, 1)]):
            scores = random(T, E, seed=seed)
            self.grouped(scores.argsort(dim=-1)[:, :k].tolist(), E)

    def test_the_engine_writes_the_right_tokens(self) -> None:
        for kind in ("qwen3_moe", "mixtral"):
            tokens_of_hugging_face(mixture(kind), jobs_for(max_tokens=6))
