"""When the quiz asks, about which engine, and where it reads the answer: what several lessons share.

A moment gets the event at which a question might be asked. It gives the facts that the text mentions, or None if this
is no good moment. An answer gets the facts and a later event, and reads from it what the engine did; None: not yet.
Events hold live objects, so facts are copies.
"""

from collections.abc import Iterable
from typing import Any

from minillm.config import EngineConfig
from minillm.debug.views.theme import letter
from minillm.probe import Event
from minillm.request import Request
from minillm.scheduler.plan import PlanRow
from minillm.scheduler.scheduler import Scheduler

Facts = dict[str, Any]


def any_engine(_config: EngineConfig) -> bool:
    return True


def few_pages(config: EngineConfig) -> bool:
    return config.num_pages is not None


def letters(requests: Iterable[Request]) -> str:
    return ", ".join(letter(request.id) for request in requests)


def who(request: Request) -> Facts:
    return {"who": letter(request.id), "id": request.id}


def step_of_one(event: Event, scheduler: Scheduler) -> Facts | None:
    """A step is over, and the request that was alone in it goes on alone."""
    alone = len(event.plan.rows) == len(scheduler.running) == 1 and not scheduler.waiting
    return {"step": event.step, "next": event.step + 1, "count": event.plan.num_tokens} if alone else None


def slot_facts(row: PlanRow, scheduler: Scheduler) -> Facts:
    """Where the row's first token will lie, in the words of its page table."""
    request = next(request for request in scheduler.running if request.id == row.request_id)
    size = scheduler.pool.page_size
    facts = {"page": request.pages[row.start // size], "position": row.start, "offset": row.start % size}
    return {**who(request), **facts, "pages": list(request.pages), "page_size": size}


# How the answers are read.


def tokens_of_step(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.plan.num_tokens


def tokens_of_request(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    return next((row.count for row in event.plan.rows if row.request_id == facts["id"]), None)


def admitted(_facts: Facts, event: Event, _scheduler: Scheduler) -> str:
    return letter(event.request.id)


def longest_context(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return max(event.batch.context_lens)


def slot_of_row(facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    """The slot of the request's first token in this step, from the tensor that the model gets."""
    index = [row.request_id for row in event.rows].index(facts["id"])
    return int(event.batch.slots[sum(event.batch.query_lens[:index])])


def candidates_left(facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return int((event.probs[facts["row"]] > 0).sum())
