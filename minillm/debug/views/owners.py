"""Who holds which page of the KV cache, and how far it is filled: what several views begin with."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minillm.request import Request


@dataclass
class Held:
    """One page: the ids of the requests whose page tables name it, and how many of its slots hold a token's KV."""

    owners: list[int] = field(default_factory=list)
    filled: int = 0


def holdings(requests: "Iterable[Request]", page_size: int) -> dict[int, Held]:
    """Page -> who holds it, for every page in a request's page table."""
    held: dict[int, Held] = {}
    for request in requests:
        for index, page in enumerate(request.pages):
            entry = held.setdefault(page, Held())
            entry.owners.append(request.id)
            filled = min(max(request.num_computed - index * page_size, 0), page_size)
            entry.filled = max(entry.filled, filled)  # a shared page is as full as whoever filled it most
    return held
