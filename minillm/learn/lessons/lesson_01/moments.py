"""The quiz of lesson 01, where one prompt becomes its first token: when it asks, and where it reads the answers."""

from minillm.learn.moments import Facts, step_of_one
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler


def later_step_of_one(event: Event, scheduler: Scheduler) -> Facts | None:
    return step_of_one(event, scheduler) if event.step > 1 else None


def several_tokens_of_one(event: Event, _scheduler: Scheduler) -> Facts | None:
    count = len(event.input_ids)
    return {"count": count} if event.batch.num_requests == 1 and count > 1 else None


def one_vector(event: Event, _scheduler: Scheduler) -> Facts | None:
    return {"hidden": event.hidden.shape[1]} if len(event.hidden) == 1 else None


def all_greedy(event: Event, _scheduler: Scheduler) -> Facts | None:
    return {} if event.settings is None else None


def several_draw(event: Event, _scheduler: Scheduler) -> Facts | None:
    """Some rows draw among their top_k; ``row`` is the first of them, among those that draw."""
    settings, vocabulary = event.settings, event.logits.shape[1]
    rows = [] if settings is None else (settings.top_k < vocabulary).nonzero()
    if not len(rows):
        return None
    row = int(rows[0])
    facts = {"temperature": float(settings.temperature[row]), "top_k": int(settings.top_k[row])}
    return {"row": row, "rows": len(rows), "vocabulary": vocabulary, **facts}


# How the answers are read.


def vectors_kept(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return len(event.hidden)


def scores_of_a_row(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.logits.shape[1]


def is_first_choice(_facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return int(event.tokens[0]) == int(event.logits[0].argmax())
