"""PagePool against a plain dict, and what its `check` must notice."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from minillm.kvcache.pages import OutOfPages, PagePool, pages_for, slot_of

NUM_PAGES, PAGE_SIZE = 7, 3


class PoolAgainstDict(RuleBasedStateMachine):
    """Page tables grow, share each other's pages and end, in any order; the model counts in a dict who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(NUM_PAGES, PAGE_SIZE)
        self.tables: dict[int, list[int]] = {}
        self.born = 0

    def held(self) -> Counter[int]:
        return Counter(page for table in self.tables.values() for page in table)

    def new_table(self, pages: list[int]) -> None:
        self.tables[self.born] = pages
        self.born += 1

    @rule(count=st.integers(0, NUM_PAGES + 2))
    def allocate(self, count: int) -> None:
        free = NUM_PAGES - len(self.held())
        if count > free:
            before = list(self.pool.free_pages)
            with pytest.raises(OutOfPages, match=rf"{count} pages were asked for, {free} of {NUM_PAGES} are free"):
                self.pool.allocate(count)
            assert self.pool.free_pages == before
        else:
            pages = self.pool.allocate(count)
            assert len(set(pages)) == count and not set(pages) & set(self.held())
            self.new_table(pages)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), tokens=st.integers(0, (NUM_PAGES + 2) * PAGE_SIZE))
    def append(self, data: st.DataObject, tokens: int) -> None:
        table = self.tables[data.draw(st.sampled_from(sorted(self.tables)))]
        before, free = list(table), self.pool.num_free
        wanted = max(pages_for(tokens, PAGE_SIZE) - len(table), 0)
        if wanted > free:
            with pytest.raises(OutOfPages):
                self.pool.append(table, tokens)
            assert table == before and self.pool.num_free == free
        else:
            new = self.pool.append(table, tokens)
            assert table == before + new and len(new) == wanted
            assert len(table) * PAGE_SIZE >= tokens

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        table = self.tables[data.draw(st.sampled_from(sorted(self.tables)))]
        prefix = table[: data.draw(st.integers(0, len(table)))]
        self.pool.share(prefix)
        self.new_table(prefix)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.pool.free(self.tables.pop(data.draw(st.sampled_from(sorted(self.tables)))))

    @precondition(lambda self: self.pool.num_free > 0)
    @rule(data=st.data())
    def misuse_a_free_page(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(sorted(self.pool.free_pages)))
        before = list(self.pool.free_pages), list(self.pool.references)
        with pytest.raises(ValueError, match=rf"page {page} is free already: it was freed twice"):
            self.pool.free([page])
        with pytest.raises(ValueError, match=rf"page {page} is free: it holds nothing that could be shared"):
            self.pool.share([page])
        assert (self.pool.free_pages, self.pool.references) == before

    @invariant()
    def the_books_agree(self) -> None:
        self.pool.check(self.tables.values())
        held = self.held()
        assert self.pool.references == [held[page] for page in range(NUM_PAGES)]
        assert set(self.pool.free_pages) == set(range(NUM_PAGES)) - set(held)
        assert self.pool.num_free + self.pool.num_used == NUM_PAGES
        assert self.pool.num_used == len(held)


PoolAgainstDict.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestPoolAgainstDict = PoolAgainstDict.TestCase


@given(tokens=st.integers(0, 10_000), page_size=st.integers(1, 300))
def test_pages_for_is_the_fewest_pages_that_hold_the_tokens(tokens: int, page_size: int) -> None:
    pages = pages_for(tokens, page_size)
    assert (pages - 1) * page_size < tokens <= pages * page_size or (tokens == pages == 0)


@given(page_size=st.integers(1, 40), num_pages=st.integers(1, 10), data=st.data())
def test_every_position_has_its_own_slot_on_its_own_page(page_size: int, num_pages: int, data: st.DataObject) -> None:
    pages = data.draw(st.permutations(range(num_pages)))
    slots = [slot_of(pages, position, page_size) for position in range(page_size * num_pages)]
    assert sorted(slots) == list(range(page_size * num_pages))
    for position, slot in enumerate(slots):
        assert divmod(slot, page_size) == (pages[position // page_size], position % page_size)


def test_slot_of_a_position_beyond_the_page_table_is_an_error() -> None:
    with pytest.raises(IndexError):
        slot_of([4, 2], 6, 3)


def test_the_page_freed_last_goes_out_first() -> None:
    pool = PagePool(4, 16)
    a, b, c = pool.allocate(3)
    pool.free([b])
    pool.free([c, a])
    assert pool.allocate(3) == [a, c, b]


def test_a_double_free_takes_the_pages_before_it_and_names_the_page() -> None:
    pool = PagePool(4, 16)
    pages = pool.allocate(2)
    pool.free(pages)
    with pytest.raises(ValueError, match=f"page {pages[0]} is free already"):
        pool.free(pages)
    pool.check([])


def test_check_finds_a_page_that_was_never_freed() -> None:
    pool = PagePool(4, 16)
    (page,) = pool.allocate(1)
    with pytest.raises(RuntimeError, match=f"page {page}: 0 page tables hold it, but 1 references"):
        pool.check([])


def test_check_finds_a_page_in_two_tables_with_one_reference() -> None:
    pool = PagePool(4, 16)
    pages = pool.allocate(1)
    with pytest.raises(RuntimeError, match="2 page tables hold it, but 1 references"):
        pool.check([pages, pages])


def test_check_finds_a_page_that_was_freed_under_its_table() -> None:
    pool = PagePool(4, 16)
    pages = pool.allocate(2)
    pool.free(pages[:1])
    with pytest.raises(RuntimeError, match=f"page {pages[0]}: 1 page tables hold it, but 0 references"):
        pool.check([pages])


def test_check_finds_a_page_that_is_free_twice() -> None:
    pool = PagePool(4, 16)
    pool.free_pages.append(2)
    with pytest.raises(RuntimeError, match="page 2: 0 references, but 2 times on the free list"):
        pool.check([])


def test_check_finds_a_page_that_is_free_and_in_use() -> None:
    pool = PagePool(4, 16)
    pages = pool.allocate(1)
    pool.free_pages.append(pages[0])
    with pytest.raises(RuntimeError, match="1 references, but 1 times on the free list"):
        pool.check([pages])


def test_check_finds_a_page_that_left_the_free_list_unnoticed() -> None:
    pool = PagePool(4, 16)
    lost = pool.free_pages.pop()
    with pytest.raises(RuntimeError, match=f"page {lost}: 0 references, but 0 times on the free list"):
        pool.check([])


@pytest.mark.parametrize("page", [-1, 4, 99])
def test_check_finds_pages_that_do_not_exist(page: int) -> None:
    pool = PagePool(4, 16)
    with pytest.raises(RuntimeError, match=rf"pages \[{page}\] do not exist"):
        pool.check([[page]])


def test_an_empty_pool_has_nothing_to_give() -> None:
    pool = PagePool(0, 16)
    assert pool.allocate(0) == []
    with pytest.raises(OutOfPages):
        pool.allocate(1)
    pool.check([])
