"""Checkpoint 02: attention of one query over cached keys and values. Oracle: dense attention, written out."""

import torch
from exercises import close, jobs_for, random, tokens_of_hugging_face
from paged import make_cache, make_shape
from tiny import Oracle
from torch import Tensor

from minillm.attention.batch import ForwardBatch
from minillm.attention.gather import GatherAttention


def dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """One request: ``q [H, D]`` over ``k, v [C, Hkv, D]`` -> ``[H * D]``, head by head."""
    heads = []
    for h in range(q.shape[0]):
        kv = h // (q.shape[0] // k.shape[1])  # the key/value head that query head h shares
        weights = torch.softmax(k[:, kv] @ q[h] * scale, dim=0)  # [C]
        heads.append(weights @ v[:, kv])
    return torch.cat(heads)


class TestDecode:
    """2.1"""

    @staticmethod
    def compare(contexts: list[int], H: int, Hkv: int, what: str, scale: float = 0.3, D: int = 4, S: int = 16) -> None:
        """One query for each request, whose ``contexts`` tokens lie in pages of ``S``; slots of nobody hold junk."""
        shape = make_shape(H, Hkv, D, scale=scale)
        pages = [-(-context // S) for context in contexts]
        cache = make_cache(shape, sum(pages) + 1, S)
        cache.tensor.copy_(random(*cache.tensor.shape, seed=9, scale=20))
        table = torch.zeros(len(contexts), max(pages), dtype=torch.int64)
        free, right = list(range(cache.num_pages)), []
        q = random(len(contexts), H, D)
        for r, context in enumerate(contexts):
            kv = random(context, 2, Hkv, D, seed=r + 1)
            table[r, : pages[r]] = torch.tensor([free.pop() for _ in range(pages[r])])
            for position in range(context):
                cache.tensor[1, int(table[r, position // S]), position % S] = kv[position]
            right.append(dense(q[r], kv[:, 0], kv[:, 1], scale))
        ones = torch.zeros(len(contexts), dtype=torch.int64)
        backend = GatherAttention(shape)
        batch = ForwardBatch(
            input_ids=ones, positions=torch.tensor(contexts) - 1, slots=ones, page_table=table, context_lens=contexts,
            query_lens=[1] * len(contexts), num_single=len(contexts), sample_rows=None, kv_cache=cache, backend=backend,
        )  # fmt: skip
        got = backend.decode(1, q, batch, backend.plan_singles(batch))
        assert isinstance(got, Tensor), f"{what}: a tensor [R, H * D] was wanted, this is {got!r}"
        assert list(got.shape) == [len(contexts), H * D], (
            f"{what}: attention's output has the shape {list(got.shape)}; [R, H * D] is {[len(contexts), H * D]}"
        )
        answers = torch.stack(right).view(len(contexts), H, D)
        close(got.reshape(len(contexts), H, D), answers, what, "request head number")

    def test_one_head(self) -> None:
        self.compare([5], H=1, Hkv=1, what="one request of 5 tokens, one head")

    def test_query_heads_share_key_value_heads_in_order(self) -> None:
        self.compare(
            [7], H=6, Hkv=2, what="one request of 7 tokens, heads 0-2 on key/value head 0, heads 3-5 on head 1"
        )
        self.compare([7], H=4, Hkv=4, what="one request of 7 tokens, each head with its own key/value head")
        self.compare([7], H=4, Hkv=1, what="one request of 7 tokens, all heads on one key/value head")

    def test_requests_of_different_lengths_see_only_their_own(self) -> None:
        self.compare([3, 20, 1], H=4, Hkv=2, what="requests of 3, 20 and 1 tokens in one step")

    def test_the_scale_is_the_one_that_is_given(self) -> None:
        self.compare([6], H=2, Hkv=1, what="scale=2.0", scale=2.0)

    def test_a_single_token_gets_its_own_value(self) -> None:
        self.compare([1, 1], H=2, Hkv=2, what="two requests of one token")

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(), page_size="max_model_len", num_pages=4)
