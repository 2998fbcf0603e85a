"""The quiz of lesson 09, where decode steps are replayed: when it asks, and where it reads the answers."""

from minillm.config import EngineConfig
from minillm.debug.views.theme import letter
from minillm.learn.moments import Facts, who
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler
from minillm.worker.graphs import capture_sizes


def replays(config: EngineConfig) -> bool:
    return config.enforce_eager is False and config.max_num_seqs > 2


def decoding(event: Event, scheduler: Scheduler) -> Facts | None:
    """A step in which everybody computes the token that was sampled last; ``sizes`` is what was recorded."""
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


# How the answers are read.


def rows_replayed(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.size


def rows_of_nobody(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.size - event.count


def step_is_replayed(_facts: Facts, _event: Event, _scheduler: Scheduler) -> bool:
    """The tensors of a batch are built where it is computed from Python, and only there."""
    return False


def slots_written(facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    graphs = event.engine.runner.graphs
    return int((graphs.rows[2, : facts["size"]] >= 0).sum())


def length_of_first_row(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return int(event.graphs.lengths[0])
