"""Checkpoint 01: from a text's tokens to the next token. Oracles: the formulas, number by number, and Hugging Face."""

import math
from collections import Counter

import torch
from exercises import close, jobs_for, random, tokens_of_hugging_face, whole_numbers
from tiny import Oracle
from torch import Tensor

from minillm.kernels.torch.kernels import TorchKernels
from minillm.sampling import sampler
from minillm.sampling.sampler import SamplingBatch

ALL = torch.iinfo(torch.int64).max  # top_k that keeps every token


class TestRMSNorm:
    """1.1"""

    def test_every_token_is_scaled_by_its_own_size(self) -> None:
        x, weight = random(3, 8) * torch.tensor([[0.2], [1.0], [30.0]]) + 0.5, random(8, seed=1)
        right = [
            [
                float(number) / math.sqrt(sum(float(n) ** 2 for n in row) / 8 + 0.1) * float(w)
                for number, w in zip(row, weight)
            ]
            for row in x
        ]
        close(TorchKernels().rms_norm(x, weight, 0.1), torch.tensor(right), "RMSNorm", "token number")

    def test_what_is_to_be_added_comes_first_and_stays_in_the_stream(self) -> None:
        stream, add, weight = random(4, 6), random(4, 6, seed=1), random(6, seed=2)
        total, kept = stream + add, add.clone()
        right = total / (total.square().mean(1, keepdim=True) + 1e-5).sqrt() * weight
        close(TorchKernels().rms_norm(stream, weight, 1e-5, add), right, "RMSNorm of x + add", "token number")
        close(stream, total, "the residual stream x, which must take up `add` in place", "token number")
        close(add, kept, "`add`, which must stay as it is", "token number")

    def test_without_anything_to_add_the_stream_stays(self) -> None:
        x = random(2, 6)
        kept = x.clone()
        TorchKernels().rms_norm(x, torch.ones(6), 1e-5)
        close(x, kept, "x, which must stay as it is when there is no `add`", "token number")

    def test_a_vector_of_zeros_stays_zero(self) -> None:
        close(
            TorchKernels().rms_norm(torch.zeros(2, 6), torch.ones(6), 1e-6), torch.zeros(2, 6), "zeros", "token number"
        )

    def test_it_is_hugging_faces(self, oracle: Oracle) -> None:
        norm = oracle.model.model.layers[1].input_layernorm
        x = random(5, 48, scale=3)
        got = TorchKernels().rms_norm(x.clone(), norm.weight, norm.variance_epsilon)
        close(got, norm(x).detach(), "Hugging Face's RMSNorm", "token number")

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for())


class TestGatedActivation:
    """1.2"""

    def test_the_first_half_is_the_gate_of_the_second(self) -> None:
        gate_up = random(3, 10, scale=2)
        right = [
            [float(row[i]) / (1 + math.exp(-float(row[i]))) * float(row[5 + i]) for i in range(5)] for row in gate_up
        ]
        close(TorchKernels().gated_activation(gate_up, "silu"), torch.tensor(right), "SwiGLU", "token number")

    def test_a_closed_gate_lets_nothing_through(self) -> None:
        gate_up = torch.tensor([[0.0, -60.0, 60.0, 7.0, 7.0, 7.0]])
        right = torch.tensor([[0.0, 0.0, 420.0]])
        close(TorchKernels().gated_activation(gate_up, "silu"), right, "gates 0, -60, 60 on up 7, 7, 7", "token number")

    def test_the_activation_is_the_one_that_was_asked_for(self) -> None:
        gate_up = torch.tensor([[-1.0, 2.0, 3.0, 5.0]])
        close(
            TorchKernels().gated_activation(gate_up, "relu"), torch.tensor([[0.0, 10.0]]), "act='relu'", "token number"
        )
        right = torch.tensor([[-0.5 * (1 + math.erf(-1 / math.sqrt(2))) * 3, (1 + math.erf(2 / math.sqrt(2))) * 5]])
        close(TorchKernels().gated_activation(gate_up, "gelu"), right, "act='gelu'", "token number")

    def test_it_is_hugging_faces(self, oracle: Oracle) -> None:
        mlp = oracle.model.model.layers[0].mlp
        x = random(4, 48)
        gate_up = torch.cat([mlp.gate_proj(x), mlp.up_proj(x)], dim=1).detach()
        got = mlp.down_proj(TorchKernels().gated_activation(gate_up, "silu")).detach()
        close(got, mlp(x).detach(), "Hugging Face's feed-forward network", "token number")

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for())


class TestRotate:
    """1.3"""

    @staticmethod
    def turned(heads: Tensor, angles: Tensor) -> Tensor:
        """``heads [T, n, D]`` turned by ``angles [T, D / 2]``, with cos and sin as the engine hands them over."""
        heads, cos, sin = heads.clone(), angles.cos().repeat(1, 2), torch.cat([-angles.sin(), angles.sin()], dim=1)
        TorchKernels().rotate(heads, cos, sin)
        return heads

    def test_at_angle_zero_nothing_moves(self) -> None:
        heads = random(2, 3, 8)
        close(self.turned(heads, torch.zeros(2, 4)), heads, "heads at angle 0", "token head number")

    def test_a_quarter_turn_takes_a_b_to_minus_b_a(self) -> None:
        heads = torch.tensor([[[1.0, 2.0, 10.0, 20.0]]])  # pairs (1, 10) and (2, 20)
        right = torch.tensor([[[-10.0, -20.0, 1.0, 2.0]]])
        got = self.turned(heads, torch.full((1, 2), math.pi / 2))
        close(
            got,
            right,
            "a quarter turn, which must happen in place, of the pairs (1, 10) and (2, 20)",
            "token head number",
        )

    def test_each_token_turns_by_its_own_angles_and_all_its_heads_alike(self) -> None:
        heads, angles = random(3, 2, 6), random(3, 3, seed=1, scale=2)
        right = heads.clone()
        for t in range(3):
            for n in range(2):
                for i in range(3):
                    a, b, angle = float(heads[t, n, i]), float(heads[t, n, i + 3]), float(angles[t, i])
                    right[t, n, i] = a * math.cos(angle) - b * math.sin(angle)
                    right[t, n, i + 3] = b * math.cos(angle) + a * math.sin(angle)
        close(self.turned(heads, angles), right, "heads, turned in place", "token head number")

    def test_it_is_hugging_faces(self, oracle: Oracle) -> None:
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        q, positions = random(7, 4, 16), torch.arange(7)[None] * 5
        cos, sin = oracle.model.model.rotary_emb(q, positions)
        right = apply_rotary_pos_emb(q.transpose(0, 1)[None], q.transpose(0, 1)[None], cos, sin)[0][0].transpose(0, 1)
        angles = positions[0][:, None] * oracle.model.model.rotary_emb.inv_freq  # [T, D / 2]
        close(self.turned(q, angles), right, "Hugging Face's RoPE, heads turned in place", "token head number")

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for())


def kept_by_hand(probs: list[float], top_k: int, top_p: float) -> list[int]:
    """The tokens that stay, in the plainest words."""
    order = sorted(range(len(probs)), key=lambda token: -probs[token])[:top_k]
    total, kept, before = sum(probs[token] for token in order), [], 0.0
    for token in order:
        if not kept or top_p == 1 or before < top_p * total:
            kept.append(token)
        before += probs[token]
    return sorted(kept)


class TestKeepTop:
    """1.4"""

    ROW = (0.05, 0.4, 0.1, 0.2, 0.25)  # likeliest first: tokens 1, 4, 3, 2, 0

    def kept(self, top_k: int, top_p: float) -> list[int]:
        probs = torch.tensor([self.ROW], dtype=torch.float64)
        return self.tokens_kept(probs, torch.tensor([top_k]), torch.tensor([top_p]).double())[0]

    @staticmethod
    def tokens_kept(probs: Tensor, top_k: Tensor, top_p: Tensor) -> list[list[int]]:
        """The tokens of each row that stay."""
        got = sampler.keep_top(probs.clone(), top_k, top_p)
        assert list(got.shape) == list(probs.shape), (
            f"of probabilities [request, token] {list(probs.shape)} as many come back, at their places; the shape is "
            f"{list(got.shape)}"
        )
        return [row.nonzero()[:, 0].tolist() for row in got]

    def test_top_k_keeps_so_many(self) -> None:
        for top_k in (1, 2, 3, 5, 9):
            right = kept_by_hand(list(self.ROW), top_k, 1.0)
            got = self.kept(top_k, 1.0)
            assert got == right, f"top_k={top_k} of probabilities {self.ROW}: tokens {got} stay, and {right} is right"

    def test_top_p_keeps_as_many_as_it_takes(self) -> None:
        for top_p in (0.01, 0.39, 0.5, 0.64, 0.7, 0.97, 1.0):
            right = kept_by_hand(list(self.ROW), ALL, top_p)
            got = self.kept(ALL, top_p)
            assert got == right, f"top_p={top_p} of probabilities {self.ROW}: tokens {got} stay, and {right} is right"

    def test_top_p_counts_shares_of_what_top_k_kept(self) -> None:
        right, got = kept_by_hand(list(self.ROW), 2, 0.6), self.kept(2, 0.6)
        assert got == right, (
            f"top_k=2 and top_p=0.6 of probabilities {self.ROW}: tokens {got} stay, and {right} is right; of the two "
            "that top_k keeps, the first alone has 0.4 / 0.65 of the probability"
        )

    def test_what_stays_keeps_its_probability_at_its_place(self) -> None:
        probs = torch.tensor([self.ROW])
        right = torch.tensor([[0.0, 0.4, 0.0, 0.0, 0.25]])
        got = sampler.keep_top(probs, torch.tensor([2]), torch.tensor([1.0]))
        close(got, right, f"probabilities {self.ROW} after top_k=2, not renormalised", "request token")

    def test_every_request_has_its_own_settings(self) -> None:
        probs = torch.softmax(random(4, 30, scale=2), dim=-1)
        ks, ps = [ALL, 3, 20, 1], [0.7, 1.0, 0.5, 0.9]
        kept = self.tokens_kept(probs, torch.tensor(ks), torch.tensor(ps))
        for r, (k, p) in enumerate(zip(ks, ps)):
            got, right = kept[r], kept_by_hand(probs[r].tolist(), k, p)
            assert got == right, f"request {r} (top_k={k}, top_p={p}): tokens {got} stay, and {right} is right"

    def test_the_engine_draws_only_from_what_is_kept(self, oracle: Oracle) -> None:
        drawn_tokens_are_likely(oracle, "top_k=3", top_k=3)


class TestSample:
    """1.5"""

    @staticmethod
    def settings(rows: int, temperature: list[float] | float, position: int = 9, top_k: int = ALL) -> SamplingBatch:
        heat = torch.tensor(temperature if isinstance(temperature, list) else [temperature] * rows)
        drawn = heat.nonzero()[:, 0]  # the others are greedy
        return SamplingBatch(
            temperature=heat[drawn],
            top_k=torch.full((len(drawn),), top_k),
            top_p=torch.ones(len(drawn)),
            seeds=drawn * 7919,
            positions=torch.full((len(drawn),), position),
            any_filter=top_k < ALL,
            drawn=drawn if len(drawn) < rows else None,
        )

    @staticmethod
    def tokens(logits: Tensor, settings: SamplingBatch | None) -> list[int]:
        got = sampler.sample(logits, settings)
        return whole_numbers(got, [0] * len(logits), f"the tokens of {len(logits)} requests", "request")

    def test_without_settings_every_request_is_greedy(self) -> None:
        got = self.tokens(torch.tensor([[0.0, 3.0, 1.0], [5.0, -1.0, 4.0]]), None)
        assert got == [1, 0], f"greedy: tokens {got}, and [1, 0] is right, the highest logit of each request"

    def test_greedy_and_drawn_requests_share_a_step(self) -> None:
        logits = torch.tensor([[0.0, 0.3, 0.2, 0.1]]).repeat(60, 1)
        got = self.tokens(logits, self.settings(60, [0.0, 1.0] * 30))
        assert got[::2] == [1] * 30, f"requests with temperature 0 take token 1, the likeliest; they took {got[::2]}"
        assert len(set(got[1::2])) > 1, f"requests with temperature 1 are drawn; all of them took token {got[1]}"

    def test_temperature_shapes_the_distribution(self) -> None:
        N, logits = 6000, torch.tensor([2.0, 1.0, 0.0, -1.0])
        for temperature in (0.5, 1.0, 2.0):
            weights = [math.exp(float(score) / temperature) for score in logits]
            counts = Counter(self.tokens(logits.repeat(N, 1), self.settings(N, temperature)))
            for token, weight in enumerate(weights):
                got, right = counts[token] / N, weight / sum(weights)
                assert abs(got - right) < 0.03, (
                    f"temperature {temperature}: token {token} comes in {got:.0%} of {N} draws, and "
                    f"{right:.0%} is right"
                )

    def test_a_tiny_temperature_is_almost_greedy(self) -> None:
        got = self.tokens(torch.tensor([[60.0, 50.0, 59.0], [-60.0, -59.0, -70.0]]), self.settings(2, 1e-37))
        assert got == [0, 1], f"temperature 1e-37, logits near 60: tokens {got}, and [0, 1] is right; does it overflow?"

    def test_top_k_is_used(self) -> None:
        got = set(self.tokens(torch.tensor([[1.0, 1.2, 0.9, 1.1]]).repeat(400, 1), self.settings(400, 1.0, top_k=2)))
        assert got == {1, 3}, f"top_k=2: tokens {sorted(got)} are drawn, and only 1 and 3, the two likeliest, may be"

    def test_chance_depends_on_seed_and_position_and_nothing_else(self) -> None:
        logits = torch.zeros(40, 50)
        here, there = (self.tokens(logits, self.settings(40, 1.0, position)) for position in (5, 6))
        again = self.tokens(logits[:3], self.settings(3, 1.0, position=5))
        assert again == here[:3], (
            f"the same seeds and positions in a smaller batch: tokens {again}, they were {here[:3]}"
        )
        assert len(set(here)) > 10, f"40 requests with 40 seeds drew only the tokens {sorted(set(here))} of 50"
        assert here != there, "the same seeds at the next position draw the same tokens again"

    def test_the_engine_greedy_is_hugging_face(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for())

    def test_the_engine_draws_likely_tokens(self, oracle: Oracle) -> None:
        drawn_tokens_are_likely(oracle, "temperature=0.2", temperature=0.2)


def drawn_tokens_are_likely(oracle: Oracle, what: str, temperature: float = 1.0, top_k: int = 0) -> None:
    """An engine draws answers; Hugging Face's model says how likely each token was. Greedy answers are its own."""
    from dataclasses import replace

    from exercises import PLAIN, PROMPTS
    from tiny import hf_logits
    from workload import make_engine, run_jobs

    tokens_of_hugging_face(oracle, jobs_for())
    drawn = [replace(job, temperature=temperature, top_k=top_k, seed=i) for i, job in enumerate(jobs_for(PROMPTS, 8))]
    run = run_jobs(make_engine(oracle.folder, **PLAIN), drawn)
    for request, job in enumerate(drawn):
        scores = hf_logits(oracle.model, [*job.prompt, *run.tokens(request)])[len(job.prompt) - 1 : -1]
        for i, (row, token) in enumerate(zip(scores, run.tokens(request))):
            rank = int((row > row[token] + 1e-3).sum())
            share = float(torch.softmax(row / temperature, dim=-1)[token])
            likely = rank < top_k if top_k else share > 1e-4
            assert likely, (
                f"the engine, {what}: request {request}, position {len(job.prompt) + i}: token {token} was drawn, "
                f"which stands at rank {rank} with a probability of {share:.1e}"
            )
