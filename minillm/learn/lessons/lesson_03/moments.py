"""The quiz of lesson 03, where requests share a pool of pages: when it asks, and where it reads the answers."""

from minillm.debug.views.theme import letter
from minillm.learn.moments import Facts, slot_facts, who
from minillm.probe import Event
from minillm.scheduler.plan import PlanRow
from minillm.scheduler.scheduler import Scheduler


def slot_of_second(event: Event, scheduler: Scheduler) -> Facts | None:
    return slot_facts(event.plan.rows[1], scheduler) if decodes(event.plan.rows) else None


def decodes(rows: list[PlanRow]) -> bool:
    """Whether several requests compute a token each, and nothing else."""
    return len(rows) > 1 and all(row.count == 1 for row in rows)


def cached(scheduler: Scheduler) -> str:
    return ", ".join(f"{letter(request.id)} {request.num_computed}" for request in scheduler.running)


def all_decode(event: Event, scheduler: Scheduler) -> Facts | None:
    return {"lengths": cached(scheduler)} if decodes(event.plan.rows) else None


def first_in_empty_pool(event: Event, scheduler: Scheduler) -> Facts | None:
    pool = scheduler.pool
    return {**who(event.request), "top": pool.free_pages[-4:]} if pool.num_used == 0 else None


def long_prompt(event: Event, scheduler: Scheduler) -> Facts | None:
    size = scheduler.pool.page_size
    return {**who(event.request), "count": event.count, "page_size": size} if event.count > size else None


def somebody_is_full(_event: Event, scheduler: Scheduler) -> Facts | None:
    running, size = scheduler.running, scheduler.pool.page_size
    if len(running) < 2 or scheduler.waiting or not any(request.num_computed % size == 0 for request in running):
        return None
    return {"lengths": cached(scheduler), "page_size": size}


def last_one_ends(event: Event, scheduler: Scheduler) -> Facts | None:
    ends = len(scheduler.running) == 1 and not scheduler.waiting and event.request.finished
    return {**who(event.request), "pages": list(event.pages)} if ends else None


# How the answers are read.


def pages_taken(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return sum(len(row.new_pages) for row in event.plan.rows)


def page_handed_out(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.pages[0]


def pages_handed_out(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    return len(event.pages) if event.request.id == facts["id"] else None
