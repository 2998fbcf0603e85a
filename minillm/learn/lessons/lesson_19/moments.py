"""The quiz of lesson 19, where a new architecture computes: when it asks, and where it reads the answers."""

from minillm.learn.moments import Facts
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler


def several_embedded(event: Event, _scheduler: Scheduler) -> Facts | None:
    count = len(event.input_ids)
    return {"count": count} if count > 1 else None


def about_to_turn(event: Event, _scheduler: Scheduler) -> Facts | None:
    """A prompt from its beginning, in the first layer; its queries before they are turned."""
    positions = event.batch.positions
    if event.layer or len(positions) < 2 or int(positions[0]):
        return None
    return {"count": len(positions), "last": len(positions) - 1, "q": event.q.clone()}


def keys_about_to_turn(event: Event, _scheduler: Scheduler) -> Facts | None:
    """The same in the second layer, with the keys."""
    if event.layer != 1 or len(event.batch.positions) < 2:
        return None
    return {"k": event.k.clone()}


def logits_to_come(event: Event, _scheduler: Scheduler) -> Facts | None:
    return {}


# How the answers are read.


def size_of_the_stream(_facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    """The mean of the squares of each token's vector, as the first layer finds it."""
    return round(float(event.stream.square().mean(dim=1).max())) if event.layer == 0 else None


def unturned_queries(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    """How many tokens' queries are what they were."""
    return int((event.q == facts["q"]).flatten(1).all(dim=1).sum()) if event.layer == 0 else None


def keys_change_length(facts: Facts, event: Event, _scheduler: Scheduler) -> bool | None:
    before, after = facts["k"].norm(dim=-1), event.k.norm(dim=-1)
    return not before.allclose(after, rtol=1e-4) if event.layer == 1 else None


def beyond_the_cap(_facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return bool((event.logits.abs() > 15).any())
