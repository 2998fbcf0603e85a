"""What a debug console knows beside the variables: ``where(request, 37)``, ``why(request)``, ``shapes()``, ``pages()``.

At a stop these are there without an import (`minillm.debug.debuggers` sees to it), in pdb as in VS Code's debug
console. Anywhere else: ``from minillm.debug.console import *``. They find the scheduler and the batch that the stopped
program works with by themselves. A local variable of the same name wins, as everywhere in Python; then ask for
``minillm.debug.console.pages()``.
"""

import dataclasses
import io
import sys
from typing import Any

from minillm.debug.scope import Scope
from minillm.debug.stops import disarm
from minillm.kvcache.pages import slot_of
from minillm.request import Request

__all__ = ["disarm", "pages", "shapes", "table", "where", "why"]


class Shown:
    """Text that a console prints as it is, with its line breaks, where a string would come with quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def where(request: Request | int, position: int | None = None) -> Shown:
    """Where a token's key and value live: ``request 2, position 37: page 5, offset 5, slot 85``.

    ``request`` itself or its id; without a position, its last known token.
    """
    scheduler = Scope(sys._getframe(1)).scheduler()
    request = _request(request, scheduler)
    position = request.num_tokens - 1 if position is None else position
    S, held = scheduler.pool.page_size, len(request.pages)
    place = f"request {request.id}, position {position}"
    if position < 0:
        return Shown(f"{place}: positions are counted from 0")
    if position >= held * S:
        has = f"its {held} pages of {S} tokens end at position {held * S - 1}" if held else "it holds no pages"
        return Shown(f"{place}: no page yet; {has}")
    slot = slot_of(request.pages, position, S)
    later = "" if position < request.num_computed else " (not computed yet)"
    return Shown(f"{place}: page {slot // S}, offset {slot % S}, slot {slot}{later}")


def why(request: Request | int | None = None) -> Shown:
    """Why a request is where it is: ``waits: needs 3 pages, 2 free``. Without one: all that wait and run, a line each.

    Inside a step, what is left of its token budget at this point counts.
    """
    scope = Scope(sys._getframe(1))
    scheduler = scope.scheduler()
    budget = scope.budget(scheduler)
    if request is not None:
        return Shown(scheduler.why(_request(request, scheduler), budget))
    everyone = [*scheduler.running, *scheduler.waiting]
    lines = [f"request {one.id} {scheduler.why(one, budget)}" for one in everyone]
    return Shown("\n".join(lines) or "nobody runs, and nobody waits")


def shapes() -> Shown:
    """The tensors of the stopped frame: name, type and shape; those in a dataclass, a tuple or a dict of it too."""
    rows = [row for name, value in Scope(sys._getframe(1)).names.items() for row in _tensors(name, value, deeper=True)]
    if not rows:
        return Shown("no tensors among this frame's variables")
    name_width, type_width = (max(len(row[i]) for row in rows) for i in (0, 1))
    return Shown("\n".join(f"{name:{name_width}}  {kind:{type_width}}  {shape}" for name, kind, shape in rows))


def pages() -> Shown:
    """The page map: who holds which page of the KV cache, and, inside a step, which slots it writes."""
    from minillm.debug.views.page_map import page_map

    scope = Scope(sys._getframe(1))
    scheduler, batch = scope.scheduler(), scope.batch()
    slots = None if batch is None else batch.slots.tolist()
    return _drawn(page_map(scheduler.pool, [*scheduler.running, *scheduler.waiting], slots))


def table() -> Shown:
    """What this step computes: the plan, a row a request."""
    from minillm.debug.views.batch_table import batch_table

    scope = Scope(sys._getframe(1))
    scheduler, plan = scope.scheduler(), scope.plan()
    if plan is None or not plan.rows:
        return Shown("nothing is planned here yet: stop at scheduler.plan, or later in the step")
    requests = [*scheduler.running, *scheduler.waiting]
    return _drawn(batch_table(plan, requests, scheduler.config.max_num_batched_tokens))


def _request(request: Request | int, scheduler: Any) -> Request:
    """The request itself, or the live one with that id."""
    if not isinstance(request, int):
        return request
    alive = {one.id: one for one in (*scheduler.running, *scheduler.waiting)}
    if request not in alive:
        raise LookupError(f"no request {request} runs or waits; there are: {sorted(alive) or 'none'}")
    return alive[request]


def _tensors(name: str, value: Any, deeper: bool) -> list[tuple[str, str, str]]:
    """``(name, type, shape)`` of a value that is a tensor or an array, or of those one level inside it."""
    if _is_tensor(value):
        device = getattr(getattr(value, "device", None), "type", "cpu")
        kind = str(value.dtype).removeprefix("torch.") + ("" if device == "cpu" else f" {value.device}")
        return [(name, kind, str(list(value.shape)))]
    if not deeper or isinstance(value, type):
        return []
    inside: dict[str, Any] = {}
    if dataclasses.is_dataclass(value):  # hasattr: a field may be set later (ForwardBatch.rope)
        fields = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
        inside = {f"{name}.{field}": getattr(value, field) for field in fields}
    elif isinstance(value, tuple | list) and len(value) <= 8:
        inside = {f"{name}[{i}]": part for i, part in enumerate(value)}
    elif type(value) is dict and len(value) <= 32:
        inside = {f"{name}[{key!r}]": part for key, part in value.items()}
    return [row for label, part in inside.items() for row in _tensors(label, part, deeper=False)]


def _is_tensor(value: Any) -> bool:
    """A tensor of torch or an array of numpy, without importing either."""
    library = type(value).__module__.partition(".")[0]
    looks_so = library in ("torch", "numpy") and hasattr(value, "dtype") and hasattr(value, "shape")
    return looks_so and not isinstance(value, type)


def _drawn(drawing: Any) -> Shown:
    """A view as text without colours: a debug console shows no more."""
    from minillm.debug.views.theme import make_console

    known = "utf" in (getattr(sys.stdout, "encoding", None) or "utf").lower()
    console = make_console(plain=not known, width=100, file=io.StringIO(), color_system=None, force_terminal=False)
    console.print(drawing)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return Shown("\n".join(line.rstrip() for line in text.rstrip().splitlines()))
