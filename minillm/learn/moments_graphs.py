"""When the quiz asks, where decode steps are replayed (lesson 09): as in `minillm.learn.moments`."""

from minillm.debug.views.theme import letter
from minillm.learn.moments import who
from minillm.learn.questions import Facts
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler


def decoding(event: Event, scheduler: Scheduler) -> Facts | None:
    """A step in which everybody computes the token that was sampled last; ``sizes`` is what was recorded."""
    from minillm.worker.graphs import capture_sizes

    rows = event.plan.rows
    if not rows or any(row.count > 1 or row.token_ids for row in rows):
        return None
    sizes = capture_sizes(scheduler.num_seats)
    return {"count": len(rows), "sizes": ", ".join(map(str, sizes[:-1])) + f" and {sizes[-1]}"}


def three_decode(event: Event, scheduler: Scheduler) -> Facts | None:
    return decoding(event, scheduler) if len(event.plan.rows) == 3 else None


def more_than_four_decode(event: Event, scheduler: Scheduler) -> Facts | None:
    return decoding(event, scheduler) if len(event.plan.rows) > 4 else None


def one_is_left(event: Event, scheduler: Scheduler) -> Facts | None:
    if len(event.plan.rows) != 1 or decoding(event, scheduler) is None:
        return None
    row = event.plan.rows[0]
    return {"who": letter(row.request_id), "computed": row.start}


def a_prompt_comes(event: Event, scheduler: Scheduler) -> Facts | None:
    return {**who(event.request), "count": event.count} if event.count > 1 and not scheduler.running else None


def some_padding(event: Event, _scheduler: Scheduler) -> Facts | None:
    return {"count": event.count, "size": event.size} if event.count < event.size else None
