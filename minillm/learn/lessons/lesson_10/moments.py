"""The quiz of lesson 10, where the host is a step ahead of the device: when it asks, and where it reads the answers."""

from minillm.config import EngineConfig
from minillm.learn.moments import Facts, who
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler


def ahead(config: EngineConfig) -> bool:
    return config.async_scheduling is True


def ahead_small(config: EngineConfig) -> bool:
    return config.async_scheduling is True and (config.max_cached_tokens or 0) <= 1024


def all_fly(_event: Event, scheduler: Scheduler) -> Facts | None:
    """Several requests write, and each has a token in flight."""
    running = scheduler.running
    if len(running) < 2 or scheduler.waiting or not all(r.in_flight and r.output_ids for r in running):
        return None
    return {"count": len(running), "before": scheduler.num_steps - 1, "step": scheduler.num_steps}


def one_flies(_event: Event, scheduler: Scheduler) -> Facts | None:
    """One request is alone, has written some tokens, has one in flight, and will want another."""
    running = scheduler.running
    if len(running) != 1 or scheduler.waiting or not running[0].in_flight or len(running[0].output_ids) < 2:
        return None
    request = running[0]
    if not request.num_pending:
        return None
    return {**who(request), "known": request.num_known, "last": request.num_known - 1}


def last_one_flies(_event: Event, scheduler: Scheduler) -> Facts | None:
    """A request's last token is in flight, and another request goes on."""
    for request in scheduler.running:
        written = len(request.output_ids)
        if request.in_flight and written + request.in_flight == request.max_tokens:
            return {**who(request), "most": request.max_tokens, "written": written}
    return None


def ends_by_a_token(event: Event, scheduler: Scheduler) -> Facts | None:
    """A stop token, while the next step is under way with a row of the same request."""
    request = event.request
    if event.token_id not in request.stop_ids or not request.in_flight or len(scheduler.running) < 2:
        return None
    return who(request)


def somebody_has_a_grammar(event: Event, _scheduler: Scheduler) -> Facts | None:
    return {"step": event.plan.step, "next": event.plan.step + 1} if event.plan.masks else None


# How the answers are read.


def token_ids_named(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return sum(len(row.token_ids) for row in event.plan.rows)


def start_of_step(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return event.plan.rows[0].start


def has_a_row(facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return any(row.request_id == facts["id"] for row in event.plan.rows)


def was_overtaken(facts: Facts, event: Event, scheduler: Scheduler) -> bool | None:
    return scheduler.num_steps > facts["step"] if event.plan.step == facts["step"] else None
