"""Checkpoint 03: pages. Oracles: Python lists and dictionaries that say who holds what, and where it lies."""

import numpy as np
import torch
from exercises import jobs_for, refuses, tokens_of_hugging_face, whole_numbers
from paged import make_cache, make_shape
from tiny import Oracle
from torch import Tensor

from minillm.attention import gather
from minillm.attention.batch import ForwardBatch
from minillm.kvcache.pages import OutOfPages, PagePool
from minillm.worker import page_table as table_module


def state_is(pool: PagePool, free: list[int], held: dict[int, int], when: str) -> None:
    """The pool's books: the free list from bottom to top, and how often each page in use is held."""
    assert pool.free_pages == free, f"{when}: the free list is {pool.free_pages}, and {free} is right (top is last)"
    for page in range(pool.num_pages):
        got, right = pool.references[page], held.get(page, 0)
        assert got == right, f"{when}: page {page} is held {got} times by its count, and {right} times in truth"


class TestAllocate:
    """3.1"""

    def test_pages_come_from_the_top_of_the_free_list(self) -> None:
        pool = PagePool(6, 4)
        got = pool.allocate(2)
        assert got == [0, 1], f"the free list was [5, 4, 3, 2, 1, 0], top last: pages {got} came, and [0, 1] is right"
        state_is(pool, [5, 4, 3, 2], {0: 1, 1: 1}, "after taking 2 of 6 pages")

    def test_a_page_that_is_handed_out_is_held_once(self) -> None:
        pool = PagePool(4, 4)
        first, second = pool.allocate(1), pool.allocate(3)
        assert sorted(first + second) == [0, 1, 2, 3], f"all 4 pages, each once, were wanted; {first} and {second} came"
        state_is(pool, [], dict.fromkeys(range(4), 1), "after taking all 4 pages")

    def test_none_is_taken_if_there_are_too_few(self) -> None:
        pool = PagePool(5, 4)
        pool.allocate(2)
        said = refuses(lambda: pool.allocate(4), OutOfPages, "4 pages are asked for, 3 are free")
        assert said, "OutOfPages should say how many pages were asked for, and how many are free"
        state_is(pool, [4, 3, 2], {0: 1, 1: 1}, "after asking for 4 pages with 3 free, which gives none")

    def test_the_last_page_can_be_had_and_none_is_no_page(self) -> None:
        pool = PagePool(1, 4)
        nothing, last = pool.allocate(0), pool.allocate(1)
        assert (nothing, last) == ([], [0]), f"0 and then 1 of 1 pages: {nothing} and {last} came, [] and [0] are right"

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(), page_size=4, num_pages=16)


class TestAppend:
    """3.2"""

    def test_a_page_is_added_only_when_the_last_one_is_full(self) -> None:
        pool, table, right = PagePool(8, 4), [], []
        for tokens in range(1, 14):
            new = pool.append(table, tokens)
            if tokens % 4 == 1:
                right.append(tokens // 4)
                assert new == right[-1:], f"token {tokens} begins a page: new pages {new}, and {right[-1:]} is right"
            else:
                assert new == [], f"token {tokens} has room in page {right[-1]}: new pages {new}, and none is right"
            assert table == right, f"with {tokens} tokens the page table is {table}, and {right} is right"

    def test_a_prompt_gets_all_its_pages_at_once(self) -> None:
        for tokens, count in ((1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (17, 5)):
            pool, table = PagePool(8, 4), []
            new = pool.append(table, tokens)
            right = list(range(count))
            assert new == right, f"{tokens} tokens in pages of 4: new pages {new}, and {right} is right"
            assert table == right, f"{tokens} tokens in pages of 4: the request's page table is {table}, not {right}"

    def test_only_what_is_new_is_said(self) -> None:
        pool, table = PagePool(8, 4), []
        pool.append(table, 6)
        new = pool.append(table, 13)
        assert new == [2, 3], f"from 6 to 13 tokens: new pages {new}, and [2, 3] is right; the table had [0, 1]"

    def test_a_table_that_is_long_enough_stays(self) -> None:
        pool, table = PagePool(8, 4), []
        pool.append(table, 16)
        new = pool.append(table, 5)
        assert (new, table) == ([], [0, 1, 2, 3]), f"16 tokens' pages are there, 5 are asked for: {new} came, {table}"

    def test_a_table_stays_whole_when_pages_run_out(self) -> None:
        pool, table = PagePool(2, 4), []
        pool.append(table, 5)
        refuses(lambda: pool.append(table, 17), OutOfPages, "17 tokens need 3 more pages, and none is free")
        assert table == [0, 1], f"there were no pages for 17 tokens: the page table is {table}, it was [0, 1]"

    def test_all_pages_or_none(self) -> None:
        pool, table = PagePool(4, 4), []
        pool.append(table, 5)
        refuses(lambda: pool.append(table, 17), OutOfPages, "17 tokens need 3 more pages, and 2 are free")
        when = "17 tokens needed 3 more pages, and 2 were free, so none may be taken"
        assert table == [0, 1], f"{when}: the page table is {table}, it was [0, 1]"
        state_is(pool, [3, 2], {0: 1, 1: 1}, when)

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(), page_size=4, num_pages=64)


class TestFree:
    """3.3"""

    def test_pages_go_back_on_top_in_their_order(self) -> None:
        pool = PagePool(5, 4)
        pages = pool.allocate(4)
        back = pages[1:3]
        pool.free(back)
        state_is(pool, [4, 1, 2], {0: 1, 3: 1}, "after pages 1 and 2 of [0, 1, 2, 3] were given back")
        assert back == [1, 2], f"pages [1, 2] were given back; whoever gave that list finds {back} in it now"

    def test_a_shared_page_stays_until_its_last_holder_leaves(self) -> None:
        pool = PagePool(3, 4)
        pages = pool.allocate(2)
        pool.share(pages[:1])
        pool.free(pages)
        state_is(pool, [2, 1], {0: 1}, "after one of two holders of page 0, and the only one of page 1, have left")
        pool.free([0])
        state_is(pool, [2, 1, 0], {}, "after the second holder of page 0 has left too")

    def test_a_page_cannot_be_given_back_twice(self) -> None:
        pool = PagePool(3, 4)
        pool.free(pool.allocate(1))
        said = refuses(
            lambda: pool.free([0]), ValueError, "page 0 was freed twice, so its next two users would share it"
        )
        assert "0" in said, f"the error should name page 0, which was freed twice; it says {said!r}"
        state_is(pool, [2, 1, 0], {}, "after page 0 was refused, being free already")

    def test_what_comes_back_is_handed_out_again(self) -> None:
        pool = PagePool(4, 4)
        for _ in range(10):
            pool.free(pool.allocate(3))
        assert sorted(pool.free_pages) == [0, 1, 2, 3], (
            f"3 pages, taken and given back 10 times: free {pool.free_pages}"
        )

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(), page_size=4, num_pages=12)


class TestSlotMapping:
    """3.4"""

    @staticmethod
    def slots(page_table: np.ndarray, seats: np.ndarray, positions: np.ndarray, page_size: int) -> list[int]:
        """A slot for each token; what goes in stays as it is."""
        kept = page_table.copy(), seats.copy(), positions.copy()
        got = table_module.slot_mapping(page_table, seats, positions, page_size)
        slots = whole_numbers(got, positions.tolist(), f"the slots of {len(positions)} tokens", "token")
        for name, now, was in zip(("page_table", "seats", "positions"), (page_table, seats, positions), kept):
            assert (now == was).all(), (
                f"the tokens' {name}, which must stay as they were, {was.tolist()}, are {now.tolist()} now"
            )
        return slots

    def test_every_token_finds_its_slot(self) -> None:
        S, tables = 4, {0: [3, 7, 1], 1: [5, 0, 2], 2: [6, 4, 8]}  # by seat
        page_table = np.array([tables[seat] for seat in range(3)])
        rows = [(2, 0), (2, 1), (2, 4), (0, 11), (1, 3), (1, 5), (0, 8)]  # (seat, position) of each token
        seats, positions = (np.array(column) for column in zip(*rows))
        for (seat, position), slot in zip(rows, self.slots(page_table, seats, positions, S)):
            page = tables[seat][position // S]
            right = page * S + position % S
            assert slot == right, (
                f"the request in seat {seat}, position {position}: slot {slot} (page {slot // S} slot {slot % S}), and "
                f"{right} (page {page} slot {position % S}) is right; its page table is {tables[seat]}, pages hold {S}"
            )

    def test_one_page_a_request_and_pages_of_one_token(self) -> None:
        for S, table, right in ((100, [[2]], [200, 207, 299]), (1, [list(range(200, 100, -1))], [200, 193, 101])):
            positions = np.array([0, 7, 99])
            slots = self.slots(np.array(table), np.zeros(3, dtype=np.int64), positions, S)
            assert slots == right, f"pages of {S} tokens, positions 0, 7, 99: slots {slots}, and {right} is right"

    def test_no_two_tokens_share_a_slot(self) -> None:
        page_table = np.random.default_rng(0).permutation(24).reshape(4, 6)
        seats, positions = np.repeat(np.arange(4), 30), np.tile(np.arange(30), 4)
        slots = self.slots(page_table, seats, positions, 5)
        assert sorted(slots) == list(range(120)), (
            "4 requests of 30 tokens fill 24 pages of 5, but some slots are used twice"
        )

    def test_one_token_and_none(self) -> None:
        page_table, one = np.array([[4, 2]]), np.zeros(1, dtype=np.int64)
        slots = self.slots(page_table, one, one + 5, 4)
        assert slots == [9], f"one token, at position 5 of pages [4, 2] of 4: slots {slots}, and [9] is right"
        assert self.slots(page_table, one[:0], one[:0], 4) == [], "no token needs no slot"

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(), page_size=4, num_pages=64)


class TestGather:
    """3.5"""

    @staticmethod
    def compare(tables: list[list[int]], lengths: list[int], S: int) -> None:
        """Keys and values say where they come from: request, position, head. What is nobody's is -1."""
        Hkv, D, layer = 2, 4, 1
        shape = make_shape(2, Hkv, D, [None] * 3)
        cache = make_cache(shape, 1 + max(max(table) for table in tables), S)
        cache.tensor.fill_(-1)
        for r, (table, length) in enumerate(zip(tables, lengths)):
            for position in range(length):
                for head in range(Hkv):
                    for kind in (0, 1):  # key, value
                        number = 1000 * (2 * r + kind) + 10 * position + head
                        cache.tensor[layer, table[position // S], position % S, kind, head] = number
        page_table = torch.zeros(len(tables), max(map(len, tables)), dtype=torch.int64)
        for r, table in enumerate(tables):
            page_table[r, : len(table)] = torch.tensor(table)
        some = torch.zeros(len(tables), dtype=torch.int64)
        batch = ForwardBatch(
            input_ids=some, positions=some, slots=some, page_table=page_table, context_lens=lengths,
            query_lens=[1] * len(tables), num_single=len(tables), sample_rows=None, kv_cache=cache,
            backend=gather.GatherAttention(shape),
        )  # fmt: skip
        plan = batch.backend.plan_singles(batch)
        shape = [len(tables), Hkv, max(lengths), D]
        for kind, got in enumerate(gather.gather_kv(layer, batch, plan)):
            name = ("keys", "values")[kind]
            assert isinstance(got, Tensor) and list(got.shape) == shape, (
                f"{name} have the shape {list(got.shape)}; [R, Hkv, C, D] is {shape} for requests of {lengths} tokens"
            )
            for r, length in enumerate(lengths):
                for position in range(length):
                    for head in range(Hkv):
                        right, page = 1000 * (2 * r + kind) + 10 * position + head, tables[r][position // S]
                        value = float(got[r, head, position, 0])
                        assert value == right, (
                            f"request {r}, position {position}, head {head}: its {name[:-1]} lies in page {page} slot "
                            f"{position % S}; what came is {whose(value)}"
                        )

    def test_pages_that_lie_in_order(self) -> None:
        self.compare([[2, 3, 4]], [10], S=4)

    def test_pages_that_lie_anywhere(self) -> None:
        self.compare([[5, 0, 3]], [11], S=4)

    def test_several_requests_of_different_lengths(self) -> None:
        self.compare([[1], [6, 2, 4], [3, 5]], [2, 9, 8], S=4)

    def test_pages_larger_than_what_a_request_needs_of_them(self) -> None:
        self.compare([[1, 0], [2]], [35, 3], S=32)

    def test_the_engine_writes_the_right_tokens(self, oracle: Oracle) -> None:
        tokens_of_hugging_face(oracle, jobs_for(gap=2), page_size=4, num_pages=64)


def whose(number: float) -> str:
    """In words: what a number in the cache of TestGather belongs to."""
    if number != int(number) or number < 0:
        return "nobody's: an empty slot, or another layer"
    owner, rest = divmod(int(number), 1000)
    kind = ("key", "value")[owner % 2]
    return f"the {kind} of request {owner // 2}, position {rest // 10}, head {rest % 10}"
