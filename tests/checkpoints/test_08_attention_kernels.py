"""Checkpoint 08: softmax block by block, splits put together, pages read in place. Oracle: dense attention."""

import inspect
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from exercises import close, jobs_for, random, tokens_of_hugging_face
from tiny import Oracle
from torch import Tensor

from minillm.kernels.torch import attention as torch_attention

HKV, G, D = 3, 2, 4
LONG = [tuple(range(3, 93)), (7,), tuple(range(90, 24, -1)), (11, 4, 99, 33)]  # 90 tokens: two splits


def facts(*sizes: int, scale: float = 2.0) -> tuple[list[Tensor], list[Tensor]]:
    """Scores ``[Hkv, G, n]`` and values ``[Hkv, n, D]`` of blocks with so many tokens."""
    scores = [random(HKV, G, n, seed=10 + i, scale=scale) for i, n in enumerate(sizes)]
    return scores, [random(HKV, n, D, seed=30 + i) for i, n in enumerate(sizes)]


def dense(scores: Tensor, values: Tensor) -> Tensor:
    """``[Hkv, G, n]`` and ``[Hkv, n, D]`` -> ``[Hkv, G, D]``."""
    return torch.einsum("hgn,hnd->hgd", scores.double().softmax(dim=-1), values.double())


def tokens_with_splits(oracle: Oracle) -> None:
    tokens_of_hugging_face(oracle, jobs_for(LONG), attention_backend="blockwise", page_size=8)


class TestOnlineSoftmax:
    """8.1"""

    @staticmethod
    def compare(scores: list[Tensor], values: list[Tensor], what: str) -> None:
        blocks = [(one.clone(), own.clone()) for one, own in zip(scores, values)]
        top, total, acc = torch_attention.online_softmax(iter(blocks))
        everything, all_values = torch.cat(scores, dim=-1), torch.cat(values, dim=1)
        largest = everything.amax(dim=-1)
        weights = (everything.double() - largest[..., None]).exp()
        close(top, largest, f"top, {what}", "head query")
        close(total, weights.sum(dim=-1), f"total, {what}", "head query")
        close(acc, torch.einsum("hgn,hnd->hgd", weights, all_values.double()), f"acc, {what}", "head query number")
        close(acc / total[..., None], dense(everything, all_values), f"acc / total, {what}", "head query number")

    def test_one_block(self) -> None:
        self.compare(*facts(5), "one block of 5 tokens")

    def test_several_blocks_of_any_length(self) -> None:
        self.compare(*facts(4, 4, 4), "three blocks of 4 tokens")
        self.compare(*facts(4, 4, 1), "blocks of 4, 4 and 1 tokens")

    def test_the_maximum_grows_at_every_block(self) -> None:
        scores, values = facts(4, 3, 4)
        self.compare([s + 10 * i for i, s in enumerate(scores)], values, "scores that grow by 10 from block to block")

    def test_the_maximum_is_in_the_first_block(self) -> None:
        scores, values = facts(4, 3, 4)
        self.compare([s - 10 * i for i, s in enumerate(scores)], values, "scores that fall by 10 from block to block")

    def test_scores_of_which_exp_is_too_large_for_a_number(self) -> None:
        scores, values = facts(4, 3)
        self.compare([s + 500 for s in scores], values, "scores about 500")
        self.compare([s - 500 for s in scores], values, "scores about -500")

    def test_no_more_than_one_block_is_held(self) -> None:
        """That is what makes it online: the second block before this one must have been let go."""
        held: list[weakref.ref[Tensor]] = []

        def blocks() -> Iterator[tuple[Tensor, Tensor]]:
            for i in range(5):
                alive = sum(one() is not None for one in held)
                assert alive <= 1, f"the scores of {alive} blocks are still held when block {i} of tokens is asked for"
                scores = random(HKV, G, 4, seed=i)
                held.append(weakref.ref(scores))
                yield scores, random(HKV, 4, D, seed=i)
                del scores

        torch_attention.online_softmax(blocks())

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_with_splits(oracle)


class TestCombineSplits:
    """8.2"""

    @staticmethod
    def compare(scores: list[Tensor], values: list[Tensor], what: str) -> None:
        tops = torch.stack([one.amax(dim=-1) for one in scores])
        weights = [(one - top[..., None]).exp() for one, top in zip(scores, tops)]
        totals = torch.stack([one.sum(dim=-1) for one in weights])
        accs = torch.stack([one @ own for one, own in zip(weights, values)])
        got = torch_attention.combine_splits(tops, totals, accs)
        right = dense(torch.cat(scores, dim=-1), torch.cat(values, dim=1))
        close(got, right, f"attention of {what}", "head query number")

    def test_one_split_is_divided_by_its_sum(self) -> None:
        self.compare(*facts(5), "one split of 5 tokens")

    def test_splits_of_any_length(self) -> None:
        self.compare(*facts(4, 4), "two splits of 4 tokens")
        self.compare(*facts(6, 6, 6, 1), "splits of 6, 6, 6 and 1 tokens")

    def test_a_split_that_hardly_counts(self) -> None:
        scores, values = facts(4, 4)
        self.compare([scores[0], scores[1] - 200], values, "two splits, the scores of the second 200 below")
        self.compare([scores[0] - 200, scores[1]], values, "two splits, the scores of the first 200 below")

    def test_maxima_of_which_exp_is_too_large_for_a_number(self) -> None:
        scores, values = facts(4, 4)
        self.compare([one + 500 for one in scores], values, "two splits with scores about 500 in each head")

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_with_splits(oracle)


def paged(length: int, S: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values ``[length, 2, Hkv, D]``, a cache that holds them in pages of ``S`` anywhere, and the page table.

    What is nobody's is junk.
    """
    pages = -(-length // S)
    kv = random(length, 2, HKV, D, seed=seed)
    cache = random((pages + 3) * S, 2 * HKV * D, seed=seed + 1, scale=20)
    table = torch.randperm(pages + 3, generator=torch.Generator().manual_seed(seed))[:pages]
    for position in range(length):
        cache[int(table[position // S]) * S + position % S] = kv[position].flatten()
    return kv, cache, table


class TestReadBlock:
    """8.3"""

    @staticmethod
    def compare(first: int, last: int, S: int, what: str, scale: float = 0.5, length: int = 23) -> None:
        kv, cache, table = paged(length, S)
        q = random(HKV, G, D, seed=5)
        got = torch_attention.read_block(q, cache, table, first, last, S, scale)
        keys, values = kv[first:last].permute(1, 2, 0, 3)  # [Hkv, n, D] each
        close(got[1], values, f"values of {what}", "head token number")
        close(got[0], torch.einsum("hgd,hnd->hgn", q, keys) * scale, f"scores of {what}", "head query token")

    def test_a_block_that_is_a_page(self) -> None:
        self.compare(0, 8, 8, "the tokens 0 to 7, in one page of 8")
        self.compare(8, 16, 8, "the tokens 8 to 15, in one page of 8")

    def test_a_block_over_several_pages(self) -> None:
        self.compare(0, 16, 4, "the tokens 0 to 15, in four pages of 4")

    def test_a_block_that_begins_and_ends_within_a_page(self) -> None:
        self.compare(5, 14, 4, "the tokens 5 to 13, in three pages of 4")
        self.compare(20, 23, 8, "the tokens 20 to 22, in a page of 8")

    def test_one_token(self) -> None:
        self.compare(22, 23, 3, "token 22 alone, in a page of 3")

    def test_the_scale_is_the_one_that_is_given(self) -> None:
        self.compare(0, 8, 8, "the tokens 0 to 7, with scale=3.0", scale=3.0)

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_with_splits(oracle)


class TestPagedDecode:
    """8.4"""

    @staticmethod
    def compare(
        lengths: list[int], what: str, S: int = 4, block: int = 8, blocks: int = 2, window: int | None = None,
        scale: float = 0.5,
    ) -> None:  # fmt: skip
        """One query for each request; a cache that holds all of them."""
        q = random(len(lengths), HKV, G, D, seed=5)
        table = torch.zeros(len(lengths), max(-(-length // S) for length in lengths), dtype=torch.int64)
        caches, right, offset = [], [], 0
        for r, length in enumerate(lengths):
            kv, cache, own = paged(length, S, seed=10 * r + 1)
            table[r, : len(own)] = own + offset
            offset += len(cache) // S
            caches.append(cache)
            keys, values = kv[max(length - window, 0) if window else 0 :].permute(1, 2, 0, 3)
            right.append(dense(torch.einsum("hgd,hnd->hgn", q[r], keys) * scale, values))
        got = torch_attention.paged_decode(q, torch.cat(caches), table, lengths, S, scale, block, blocks, window)
        close(got, torch.stack(right), f"attention of {what}", "request head query number")

    def test_a_context_of_less_than_a_block(self) -> None:
        self.compare([5], "a request of 5 tokens, blocks of 8")
        self.compare([1], "a request of one token")

    def test_a_context_of_one_split(self) -> None:
        self.compare([16], "a request of 16 tokens, two blocks of 8")
        self.compare([13], "a request of 13 tokens, blocks of 8")

    def test_a_context_of_several_splits(self) -> None:
        self.compare([41], "a request of 41 tokens, splits of two blocks of 8")
        self.compare([32], "a request of 32 tokens, splits of two blocks of 8")
        self.compare([41], "a request of 41 tokens, splits of three blocks of 5", block=5, blocks=3)

    def test_requests_see_only_their_own(self) -> None:
        self.compare([3, 41, 1, 20], "requests of 3, 41, 1 and 20 tokens")

    def test_a_window(self) -> None:
        self.compare([41, 5], "requests of 41 and 5 tokens, a window of 10 tokens", window=10)
        self.compare([41], "a request of 41 tokens, a window of 30 tokens", window=30)

    def test_only_the_blocks_that_are_needed_are_read(self) -> None:
        """No more than a split's blocks go into one running softmax, and no more tokens than a block into one read."""
        spans, counts = [], []
        read, online = torch_attention.read_block, torch_attention.online_softmax

        def noting_read(*arguments: Any, **named: Any) -> tuple[Tensor, Tensor]:
            scores, values = read(*arguments, **named)
            spans.append(scores.shape[-1])
            return scores, values

        def noting_online(blocks: Any) -> Any:
            before = len(spans)
            result = online(blocks)
            counts.append(len(spans) - before)
            return result

        names = {"read_block": noting_read, "online_softmax": noting_online}
        scope = inspect.unwrap(
            torch_attention.paged_decode
        ).__globals__  # where the function that is tested looks these up
        kept = {name: scope[name] for name in names}
        scope.update(names)
        try:
            self.compare([41], "a request of 41 tokens, splits of two blocks of 8")
        finally:
            scope.update(kept)
        assert spans == [8, 8, 8, 8, 8, 1], f"41 tokens in blocks of 8 were read as blocks of {spans} tokens"
        assert counts == [2, 2, 2], f"six blocks in splits of two went into online_softmax as {counts} blocks of tokens"

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_with_splits(oracle)
