"""The quiz of lesson 04, where requests come and go: when it asks, and where it reads the answers."""

from minillm.config import EngineConfig
from minillm.learn.moments import Facts, letters, who
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler


def static(config: EngineConfig) -> bool:
    return config.batching == "static"


def continuous(config: EngineConfig) -> bool:
    return config.batching == "continuous"


def seat_left_to_waiting(event: Event, scheduler: Scheduler) -> Facts | None:
    """A request ends; others run on, others wait. ``request`` still stands in ``running``, at this probe."""
    rest = [request for request in scheduler.running if request is not event.request and not request.finished]
    more = [request for request in rest if len(request.output_ids) + 1 < request.max_tokens]
    if not event.request.finished or not more or not scheduler.waiting:
        return None
    return {**who(event.request), "running": letters(rest), "waiting": letters(scheduler.waiting)}


def one_seat_for_several(_event: Event, scheduler: Scheduler) -> Facts | None:
    waiting = scheduler.waiting
    if len(scheduler.free_seats) != 1 or len(waiting) < 2:
        return None
    return {"waiting": letters(waiting), "lengths": ", ".join(str(request.num_pending) for request in waiting)}


def some_may_come(_event: Event, scheduler: Scheduler) -> Facts | None:
    running, waiting, free = scheduler.running, scheduler.waiting, len(scheduler.free_seats)
    if not running or not waiting or not free:
        return None
    return {"running": letters(running), "waiting": letters(waiting), "free": free}


def joins_the_last_seat(event: Event, scheduler: Scheduler) -> Facts | None:
    others, last = scheduler.running, len(scheduler.free_seats) == 1 or len(scheduler.waiting) == 1
    if not last or len(others) < 2 or any(request.num_pending != 1 for request in others):
        return None
    return {**who(event.request), "count": event.count, "others": len(others)}


# How the answers are read.


def rows_of_step(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return len(event.plan.rows)


def somebody_joins(_facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return any(row.joins for row in event.plan.rows)
