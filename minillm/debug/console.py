"""What a debug console knows beside the variables: ``where(request, 37)``, ``why(request)``, ``shapes()``, ``pages()``,
``tree()``.

At a stop these are there without an import (`minillm.debug.debuggers` sees to it), in pdb as in VS Code's debug
console. Anywhere else: ``from minillm.debug.console import *``. They find the scheduler and the batch that the stopped
program works with by themselves. A local variable of the same name wins, as everywhere in Python; then ask for
``minillm.debug.console.pages()``.
"""

import io
import sys
from types import FrameType
from typing import Any

from minillm.debug import debuggers
from minillm.debug.frame_tensors import tensors_in
from minillm.debug.look import looked
from minillm.debug.scope import Scope
from minillm.debug.stops import disarm
from minillm.kvcache.pages import slot_of
from minillm.request import Request
from minillm.scheduler.scheduler import Scheduler

__all__ = ["disarm", "look", "pages", "shapes", "table", "tree", "where", "why"]


class Shown:
    """Text that a console prints as it is, with its line breaks, where a string would come with quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def where(request: Request | int | str, position: int | None = None) -> Shown:
    """Where a token's key and value live: ``request 2 (C), position 37: page 5, offset 5, slot 85``.

    ``request`` itself, its id, or its letter in a lesson, "C"; without a position, its last known token.
    """
    scheduler = Scope(_caller()).scheduler()
    request = _request(request, scheduler)
    position = request.num_tokens - 1 if position is None else position
    S, held = scheduler.pool.page_size, len(request.pages)
    place = f"{_name(request)}, position {position}"
    if position < 0:
        return Shown(f"{place}: positions are counted from 0")
    if position >= held * S:
        has = f"its {held} pages of {S} tokens end at position {held * S - 1}" if held else "it holds no pages"
        return Shown(f"{place}: no page yet; {has}")
    slot = slot_of(request.pages, position, S)
    later = "" if position < request.num_computed else " (not computed yet)"
    return Shown(f"{place}: page {slot // S}, offset {slot % S}, slot {slot}{later}")


def why(request: Request | int | str | None = None) -> Shown:
    """Why a request is where it is: ``waits: needs 3 pages, 2 free``. Without one: all that wait and run, a line each.

    Inside a step, what is left of its token budget at this point counts.
    """
    scope = Scope(_caller())
    scheduler = scope.scheduler()
    budget, plan = scope.budget(scheduler), scope.plan()
    in_step = budget is not None and not (plan and plan.preempted)  # who is not looked at yet may still come in
    if request is not None:
        return Shown(_why(_request(request, scheduler), scheduler, budget, in_step))
    everyone = [*scheduler.running, *scheduler.waiting]
    lines = [f"{_name(one)} {_why(one, scheduler, budget, in_step)}" for one in everyone]
    return Shown("\n".join(lines) or "nobody runs, and nobody waits")


def _why(request: Request, scheduler: Scheduler, budget: int | None, in_step: bool) -> str:
    """What the scheduler says; where it finds no reason, as between two steps, the turn has just not come."""
    said = scheduler.why(request, budget)
    if not said.startswith("waits: needs"):
        return said
    count = scheduler._chunk(request, scheduler.config.max_num_batched_tokens if budget is None else budget)
    if scheduler.manager.lacking(request, count) > scheduler.manager.num_available:
        return said
    return f"waits: nothing is short, its turn comes in {'this' if in_step else 'the next'} step"


def look() -> Shown:
    """What to watch at the probe that stopped last, and what must be true there, tried in this frame."""
    if debuggers.last is None:
        raise LookupError("nothing has stopped yet; look() tells of the probe that stopped last")
    frame = _caller()
    return Shown("\n".join(looked(debuggers.last.name, {**frame.f_globals, **frame.f_locals})))


def shapes() -> Shown:
    """The tensors of the stopped frame: name, type and shape; those in a dataclass, a tuple or a dict of it too."""
    rows = [row for name, value in Scope(_caller()).names.items() for row in tensors_in(name, value, deeper=True)]
    if not rows:
        return Shown("no tensors among this frame's variables")
    name_width, type_width = (max(len(row[i]) for row in rows) for i in (0, 1))
    return Shown("\n".join(f"{name:{name_width}}  {kind:{type_width}}  {shape}" for name, kind, shape in rows))


def pages() -> Shown:
    """The page map: who holds which page of the KV cache, and, inside a step, which slots it writes."""
    from minillm.debug.views.page_map import page_map

    scope = Scope(_caller())
    scheduler, batch = scope.scheduler(), scope.batch()
    slots = None if batch is None else batch.slots.tolist()
    return _drawn(page_map(scheduler.pool, [*scheduler.running, *scheduler.waiting], slots))


def table() -> Shown:
    """What this step computes: the plan, a row a request."""
    from minillm.debug.views.batch_table import batch_table

    scope = Scope(_caller())
    scheduler, plan = scope.scheduler(), scope.plan()
    if plan is None or not plan.rows:
        return Shown("nothing is planned here yet: stop at scheduler.plan, or later in the step")
    requests = [*scheduler.running, *scheduler.waiting]
    return _drawn(batch_table(plan, requests, scheduler.config.max_num_batched_tokens))


def tree() -> Shown:
    """The prefix cache's tree: runs of tokens, their pages, who has locked them, which leaf would be evicted first."""
    from minillm.debug.views.radix_tree import radix_tree

    scope = Scope(_caller())
    scheduler = scope.scheduler()
    if not scheduler.manager.shares_prefixes:
        return Shown("there is no tree: this engine's prefix_cache is 'none'")
    requests = [*scheduler.running, *scheduler.waiting]
    return _drawn(radix_tree(scheduler.cache, requests, scope.tokenizer(scheduler), order=True))


def _caller() -> FrameType:
    """Whoever asks: the first frame up the stack that is neither this file's nor the one that hands helpers out."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__") in (__name__, debuggers.__name__):
        frame = frame.f_back
    return frame


def _name(request: Request) -> str:
    """``request 2 (C)``: by its id, and by its letter in lessons."""
    from minillm.debug.views.theme import letter

    return f"request {request.id} ({letter(request.id)})"


def _request(request: Request | int | str, scheduler: Any) -> Request:
    """The request itself, or the live one with that id or letter; a log line's ``r2`` will do, too."""
    from minillm.debug.views.theme import letter

    if not isinstance(request, int | str):
        return request
    alive = {one.id: one for one in (*scheduler.running, *scheduler.waiting)}
    words: dict[int | str, Request] = {**alive}
    words |= {word: one for id, one in alive.items() for word in (letter(id), letter(id).lower(), f"r{id}")}
    if request not in words:
        there = ", ".join(f"{id} ({letter(id)})" for id in sorted(alive))
        raise LookupError(f"no request {request} runs or waits; there are: {there or 'none'}")
    return words[request]


def _drawn(drawing: Any) -> Shown:
    """A view as text without colours: a debug console shows no more."""
    from minillm.debug.views.theme import make_console

    known = "utf" in (getattr(sys.stdout, "encoding", None) or "utf").lower()
    console = make_console(plain=not known, width=100, file=io.StringIO(), color_system=None, force_terminal=False)
    console.print(drawing)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return Shown("\n".join(line.rstrip() for line in text.rstrip().splitlines()))
