"""Build 2: a paged decode kernel, in Triton's interpreter. Oracle: naive attention, request by request."""

import os
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from exercises import close, jobs_for, tokens_of_hugging_face
from fuzz import examples
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from paged import make_batch, make_cache, make_shape, shuffled_pages
from tiny import Oracle
from torch import Tensor

from minillm.attention.batch import ForwardBatch
from minillm.attention.naive import NaiveAttention
from minillm.kernels.torch.kernels import TorchKernels
from minillm.learn.registry import builds
from minillm.worker import platform

interpreted = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None
pytestmark = pytest.mark.skipif(
    not interpreted, reason="needs Triton's interpreter: python -m minillm learn check build2, or TRITON_INTERPRET=1"
)
NO_PAGE = 10**7  # stands in page tables where nobody should look


class Case:
    """Requests that see so many tokens each, their pages anywhere in a cache whose other numbers are junk."""

    def __init__(
        self, lengths: list[int], heads: tuple[int, int] = (1, 1), D: int = 16, S: int = 4, scale: float | None = None,
        dtype: torch.dtype = torch.float32, seed: int = 1, junk: float | None = None,
    ) -> None:  # fmt: skip
        torch.manual_seed(seed)
        self.lengths, self.heads, self.S = lengths, heads, S
        shape = make_shape(*heads, D, [None], scale, dtype)
        pairs = [(length, 1) for length in lengths]
        self.cache = make_cache(shape, sum(-(-length // S) for length in lengths) + 2, S)
        self.cache.tensor.normal_(0, 30) if junk is None else self.cache.tensor.fill_(junk)
        table = shuffled_pages(self.cache, pairs, seed, spare=2)
        for row, length in zip(table, lengths):
            at = torch.arange(length)
            slots = row[at // S] * S + at % S
            self.cache[0].store(slots, *torch.randn(2, length, heads[1], D))
            row[-(-length // S) :] = NO_PAGE
        self.backend: Any = platform.choose_backend("auto", TorchKernels(), shape, self.cache)
        self.batch: ForwardBatch = make_batch(self.cache, pairs, table, self.backend)
        self.batch.plan = self.backend.prepare(self.batch)
        self.q = torch.randn(len(lengths), heads[0], D).to(dtype)

    def check(self, q: Tensor | None = None, tolerance: float = 1e-4) -> None:
        """Hold it against naive attention, and against zeros where there is nothing to see."""
        q = self.q if q is None else q
        right, some = torch.zeros_like(q), [row for row, length in enumerate(self.lengths) if length]
        if some:
            pairs = [(self.lengths[row], 1) for row in some]
            batch = make_batch(self.cache, pairs, self.batch.page_table[some], self.backend)
            right[some] = NaiveAttention(self.backend.shape).attend(0, q[some], batch).view(len(some), *q.shape[1:])
        got = self.backend.attend(0, q, self.batch).view(q.shape)
        H, Hkv = self.heads
        what = (
            f"contexts of {self.lengths} tokens, {H} query heads, {Hkv} key/value heads, pages of {self.S}: attention"
        )
        close(got, right, what, "request head number", tolerance)


class TestPagedDecode:
    """build2"""

    def test_one_request_with_a_few_tokens(self) -> None:
        Case([4]).check()
        Case([3]).check()

    def test_its_pages_lie_anywhere(self) -> None:
        Case([16]).check()
        Case([40], seed=2).check()

    def test_a_context_of_many_blocks(self) -> None:
        Case([300], S=16).check()

    def test_requests_of_any_length_together(self) -> None:
        Case([5, 1, 33, 12]).check()

    def test_query_heads_that_share_a_key_value_head(self) -> None:
        Case([9, 20], heads=(2, 2)).check()
        Case([9, 20], heads=(6, 2)).check()
        Case([9, 20], heads=(6, 1)).check()

    def test_pages_of_any_size(self) -> None:
        for S in (1, 3, 16, 64):
            Case([7, 70], heads=(4, 2), S=S).check()

    def test_heads_of_any_size(self) -> None:
        for D in (8, 20, 64):
            Case([7, 30], heads=(4, 2), D=D).check()

    def test_a_request_without_a_context_is_padding(self) -> None:
        case = Case([6, 0, 9, 0], heads=(4, 2))
        case.check()

    def test_scores_of_which_exp_is_too_large_for_a_number(self) -> None:
        Case([40, 7], heads=(4, 2), scale=100.0).check()

    def test_scores_that_grow_and_fall_along_the_context(self) -> None:
        for sign in (1, -1):
            case = Case([200], S=16)
            case.cache[0].keys.zero_()
            table, at = case.batch.page_table[0], torch.arange(200)
            case.cache[0].keys[table[at // 16], at % 16, 0, 0] = sign * at.float()
            case.q.fill_(1.0)
            case.check()

    def test_what_is_nobodys_may_be_no_number(self) -> None:
        Case([5, 18], heads=(4, 2), junk=float("nan")).check()

    def test_queries_that_are_a_part_of_a_larger_tensor(self) -> None:
        """As in the model, where q is a slice of what one projection gives."""
        case = Case([9, 20], heads=(4, 2))
        fused = torch.full((2, 8, 16), float("nan"))
        fused[:, :4] = case.q
        case.check(fused[:, :4])

    def test_half_precision(self) -> None:
        """float16: bfloat16's bits are whole numbers to the interpreter's tl.dot."""
        Case([50, 3], heads=(4, 2), dtype=torch.float16).check(tolerance=1e-2)

    @given(
        lengths=st.lists(st.integers(0, 70), min_size=1, max_size=4), S=st.sampled_from([1, 3, 16, 48]),
        heads=st.sampled_from([(1, 1), (4, 4), (6, 2), (20, 1)]), D=st.sampled_from([8, 20, 64]),
        scale=st.sampled_from([None, 0.1, 3.0]), seed=st.integers(0, 1000),
    )  # fmt: skip
    @settings(max_examples=examples(10), suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    def test_any_requests_of_any_model(
        self, lengths: list[int], S: int, heads: tuple[int, int], D: int, scale: float | None, seed: int
    ) -> None:
        Case(lengths, heads, D, S, scale, seed=seed).check()

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        settings = {"attention_backend": "auto", "page_size": 4, "num_pages": 20}
        tokens_of_hugging_face(oracle, jobs_for([range(5, 25), (7,)], max_tokens=6, gap=2), **settings)

    def test_the_target_in_what_is_read_and_made(self) -> None:
        goal = builds()["build2"].target_numbers
        case = Case([300, 33, 170], heads=(6, 2), S=16)
        case.check()
        watch = case.backend.watched
        needed = sum(case.lengths) * case.cache[0].slots.shape[1]
        assert watch.num_read, "no kernel has read a key: is all of it computed in torch?"
        times = watch.num_read / needed
        assert times <= goal["reads"], (
            f"all is right, but each key and value is read {times:.3g} times, and once is enough: 3 query heads share "
            f"it here. And what lies behind the last token is masked"
        )
        tokens = watch.most / case.backend.shape.head_dim
        assert tokens <= goal["tokens"], (
            f"all is right, but one load takes {tokens:.0f} tokens, and {goal['tokens']} at most fit into a "
            f"processor's registers: a context of any length is read block by block, with a running softmax"
        )
        made, there = watch.made.num_bytes, needed * 4
        assert made <= there / 4, (
            f"all is right, but torch makes tensors of {made} bytes beside the kernel, and all contexts have {there}: "
            f"is something copied that grows with the context?"
        )
