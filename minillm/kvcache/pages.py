"""Pages: fixed-size pieces of the KV cache, handed out and taken back. Ints only, no tensors.

The idea is virtual memory's, brought to attention by vLLM (Kwon et al. 2023, "PagedAttention"): a request's tokens lie
in pages anywhere in the cache, a page table says where, and no request reserves memory for tokens that it may never
have.
"""

from collections import Counter
from collections.abc import Iterable, Sequence


class OutOfPages(RuntimeError):
    """More pages were asked for than are free."""


def pages_for(num_tokens: int, page_size: int) -> int:
    """How many pages ``num_tokens`` tokens need."""
    return -(-num_tokens // page_size)


def slot_of(pages: Sequence[int], position: int, page_size: int) -> int:
    """Where in the cache the token at ``position`` of a request lives: ``page * page_size + offset``."""
    return pages[position // page_size] * page_size + position % page_size


class PagePool:
    """The one book-keeper of pages: a free list and a count of references.

    A page is free exactly when nobody refers to it. `allocate` makes the first reference, `share` one more (a second
    request, the prefix tree), `free` drops one.
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        # A stack: the page freed last goes out first, because its memory is likeliest to be in a CPU's cache still.
        self.free_pages: list[int] = list(reversed(range(num_pages)))
        self.references: list[int] = [0] * num_pages

    def reset(self) -> None:
        """All pages are free, and nobody refers to any."""
        self.free_pages = list(reversed(range(self.num_pages)))
        self.references = [0] * self.num_pages

    @property
    def num_free(self) -> int:
        return len(self.free_pages)

    @property
    def num_used(self) -> int:
        return self.num_pages - len(self.free_pages)

    def allocate(self, count: int) -> list[int]:
        """Take ``count`` free pages. OutOfPages if there are fewer; then none is taken."""
        if count > len(self.free_pages):
            raise OutOfPages(f"{count} pages were asked for, {len(self.free_pages)} of {self.num_pages} are free")
        taken = [self.free_pages.pop() for _ in range(count)]
        for page in taken:
            self.references[page] = 1
        return taken

    def share(self, pages: Iterable[int]) -> None:
        """One more reference to pages that are already in use."""
        for page in pages:
            if self.references[page] == 0:
                raise ValueError(f"page {page} is free: it holds nothing that could be shared")
            self.references[page] += 1

    def free(self, pages: Iterable[int]) -> None:
        """Drop one reference to each page; those that nobody else refers to become free, the last one on top."""
        for page in pages:
            if self.references[page] == 0:
                raise ValueError(f"page {page} is free already: it was freed twice, or by someone who never held it")
            self.references[page] -= 1
            if self.references[page] == 0:
                self.free_pages.append(page)

    def append(self, pages: list[int], num_tokens: int) -> list[int]:
        """Grow one request's page table in place until it covers ``num_tokens`` tokens; the new pages, maybe none."""
        new = self.allocate(max(pages_for(num_tokens, self.page_size) - len(pages), 0))
        pages.extend(new)
        return new

    def check(self, page_tables: Iterable[Sequence[int]]) -> None:
        """Recount everything from the page tables; RuntimeError names the first page whose books are wrong."""
        counted = Counter(page for table in page_tables for page in table)
        free = Counter(self.free_pages)
        for page in range(self.num_pages):
            held, references = counted[page], self.references[page]
            if held != references:
                raise RuntimeError(f"page {page}: {held} page tables hold it, but {references} references are counted")
            if free[page] != (1 if references == 0 else 0):
                raise RuntimeError(f"page {page}: {references} references, but {free[page]} times on the free list")
        if strange := [page for page in [*counted, *free] if not 0 <= page < self.num_pages]:
            raise RuntimeError(f"pages {strange} do not exist: the pool has pages 0 to {self.num_pages - 1}")

    def __repr__(self) -> str:
        return f"PagePool({self.num_used} of {self.num_pages} pages of {self.page_size} tokens in use)"
