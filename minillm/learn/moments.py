"""When the quiz asks: each function gives the facts that a question's text mentions, or None at a bad moment."""

from collections.abc import Iterable

from minillm.debug.views.theme import letter
from minillm.learn.questions import Facts
from minillm.probe import Event
from minillm.request import Request
from minillm.scheduler.plan import PlanRow
from minillm.scheduler.scheduler import Scheduler


def letters(requests: Iterable[Request]) -> str:
    return ", ".join(letter(request.id) for request in requests)


def who(request: Request) -> Facts:
    return {"who": letter(request.id), "id": request.id}


def step_of_one(event: Event, scheduler: Scheduler) -> Facts | None:
    """A step is over, and the request that was alone in it goes on alone."""
    alone = len(event.plan.rows) == len(scheduler.running) == 1 and not scheduler.waiting
    return {"step": event.step, "next": event.step + 1, "count": event.plan.num_tokens} if alone else None


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


def slot_facts(row: PlanRow, scheduler: Scheduler) -> Facts:
    """Where the row's first token will lie, in the words of its page table."""
    request = next(request for request in scheduler.running if request.id == row.request_id)
    size = scheduler.pool.page_size
    facts = {"page": request.pages[row.start // size], "position": row.start, "offset": row.start % size}
    return {**who(request), **facts, "pages": list(request.pages), "page_size": size}


def slot_of_youngest(event: Event, scheduler: Scheduler) -> Facts | None:
    rows = event.plan.rows
    return slot_facts(rows[-1], scheduler) if len(rows) > 1 and rows[-1].count == 1 else None


def slot_of_second(event: Event, scheduler: Scheduler) -> Facts | None:
    return slot_facts(event.plan.rows[1], scheduler) if decodes(event.plan.rows) else None


def decodes(rows: list[PlanRow]) -> bool:
    """Whether several requests compute a token each, and nothing else."""
    return len(rows) > 1 and all(row.count == 1 for row in rows)


def cached(scheduler: Scheduler) -> str:
    return ", ".join(f"{letter(request.id)} {request.num_computed}" for request in scheduler.running)


def all_decode(event: Event, scheduler: Scheduler) -> Facts | None:
    return {"lengths": cached(scheduler)} if decodes(event.plan.rows) else None


def first_in_empty_pool(event: Event, scheduler: Scheduler) -> Facts | None:
    pool = scheduler.pool
    return {**who(event.request), "top": pool.free_pages[-4:]} if pool.num_used == 0 else None


def long_prompt(event: Event, scheduler: Scheduler) -> Facts | None:
    size = scheduler.pool.page_size
    return {**who(event.request), "count": event.count, "page_size": size} if event.count > size else None


def somebody_is_full(_event: Event, scheduler: Scheduler) -> Facts | None:
    running, size = scheduler.running, scheduler.pool.page_size
    if len(running) < 2 or scheduler.waiting or not any(request.num_computed % size == 0 for request in running):
        return None
    return {"lengths": cached(scheduler), "page_size": size}


def last_one_ends(event: Event, scheduler: Scheduler) -> Facts | None:
    ends = len(scheduler.running) == 1 and not scheduler.waiting and event.request.finished
    return {**who(event.request), "pages": list(event.pages)} if ends else None
