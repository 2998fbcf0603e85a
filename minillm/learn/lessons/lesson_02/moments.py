"""The quiz of lesson 02, where KV is kept: when it asks, and where it reads the answers."""

from minillm.debug.views.theme import letter
from minillm.learn.moments import Facts, slot_facts, who
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler


def arrives_first(event: Event, scheduler: Scheduler) -> Facts | None:
    return {**who(event.request), "count": event.request.num_pending} if scheduler.idle else None


def one_decodes(event: Event, scheduler: Scheduler) -> Facts | None:
    rows = event.plan.rows
    alone = len(rows) == 1 and rows[0].count == 1 and scheduler.num_steps > 2
    return {"who": letter(rows[0].request_id), "computed": rows[0].start} if alone else None


def one_goes_on(_event: Event, scheduler: Scheduler) -> Facts | None:
    running = scheduler.running
    if len(running) != 1 or scheduler.waiting or scheduler.num_steps < 3:
        return None
    return {**who(running[0]), "computed": running[0].num_computed, "page_size": scheduler.pool.page_size}


def several_wait(_event: Event, scheduler: Scheduler) -> Facts | None:
    waiting, pool = scheduler.waiting, scheduler.pool
    if len(waiting) < 2 or scheduler.running:
        return None
    lengths = ", ".join(str(request.num_pending) for request in waiting)
    return {"many": len(waiting), "lengths": lengths, "page_size": pool.page_size, "free": pool.num_free}


def slot_of_youngest(event: Event, scheduler: Scheduler) -> Facts | None:
    rows = event.plan.rows
    return slot_facts(rows[-1], scheduler) if len(rows) > 1 and rows[-1].count == 1 else None


# How the answers are read.


def pages_in_use(_facts: Facts, _event: Event, scheduler: Scheduler) -> int:
    return scheduler.pool.num_used


def takes_a_page(_facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return any(row.new_pages for row in event.plan.rows)
