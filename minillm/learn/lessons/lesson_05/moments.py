"""The quiz of lesson 05, where a prompt comes in chunks: when it asks, and where it reads the answers."""

from minillm.config import EngineConfig
from minillm.debug.views.theme import letter
from minillm.learn.moments import Facts, letters, who
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler


def small_budget(config: EngineConfig) -> bool:
    return config.enable_chunked_prefill and config.max_num_batched_tokens < 1024


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


# How the answers are read.


def preempted(_facts: Facts, event: Event, _scheduler: Scheduler) -> str:
    return letter(event.plan.preempted[0])


def got_a_token(facts: Facts, event: Event, _scheduler: Scheduler) -> bool:
    return facts["id"] in event.result.tokens


def steps_it_took(facts: Facts, event: Event, _scheduler: Scheduler) -> int | None:
    return event.step - facts["step"] if event.request.id == facts["id"] else None
