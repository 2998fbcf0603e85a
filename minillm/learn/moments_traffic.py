"""When the quiz asks, where requests come and go (lessons 04 and 05): as in `minillm.learn.moments`."""

from minillm.debug.views.theme import letter
from minillm.learn.moments import letters, who
from minillm.learn.questions import Facts
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler


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


def a_prompt_too_long(event: Event, scheduler: Scheduler) -> Facts | None:
    pending, others = event.request.num_pending, scheduler.running
    if event.count == pending or not others or any(request.num_pending != 1 for request in others):
        return None
    budget = scheduler.config.max_num_batched_tokens
    return {**who(event.request), "pending": pending, "budget": budget, "others": len(others)}


def middle_chunk(event: Event, scheduler: Scheduler) -> Facts | None:
    """A step that computes some of a prompt, neither its first part nor its last."""
    for row in event.plan.rows:
        if row.start and not row.samples:
            request = next(request for request in scheduler.running if request.id == row.request_id)
            end = row.start + row.count - 1
            return {**who(request), "start": row.start, "end": end, "known": request.num_tokens}
    return None


def much_is_pending(event: Event, scheduler: Scheduler) -> Facts | None:
    """A prompt is in the middle of its chunks, and the others write on for long enough."""
    if len(scheduler.running) < 2 or scheduler.running[-1].num_pending < 2:
        return None
    *others, request = scheduler.running
    budget = scheduler.config.max_num_batched_tokens
    if request.num_computed < 2 * budget:
        return None
    steps = -(-request.num_pending // (budget - len(others)))
    if scheduler.waiting or any(steps >= other.max_tokens - len(other.output_ids) for other in others):
        return None
    facts = {"pending": request.num_pending, "others": len(others), "budget": budget, "step": event.step}
    return {**who(request), **facts}


def pages_are_out(event: Event, scheduler: Scheduler) -> Facts:
    return {"needs": letter(event.for_request.id), "running": letters(scheduler.running)}


def comes_back(event: Event, _scheduler: Scheduler) -> Facts | None:
    request = event.request
    if not request.num_preemptions:
        return None
    return {**who(request), "prompt": len(request.prompt_ids), "written": len(request.output_ids)}
