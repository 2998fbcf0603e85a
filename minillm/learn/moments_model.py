"""When the quiz asks, where a new architecture computes (lesson 19): as in `minillm.learn.moments`."""

from minillm.learn.questions import Facts
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
