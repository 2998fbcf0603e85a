"""What a run did, fact by fact, and the first fact in which another run differs.

The facts come from probes that stand outside all exercises, so they are there whatever the learner has written.
"""

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minillm.engine.engine import Engine
from minillm.probe import Event, listen

Owner = tuple[int, int]  # request, position
TOLERANCE = 1e-3  # of a row's largest number: another order of the same sums is no difference

TENSORS = {  # probe -> its values that are tensors with a row for each token of the step
    "layer.attention": {"stream": "the residual stream before attention", "hidden": "the normalised stream"},
    "kv.store": {"q": "queries before they are turned", "k": "keys before they are turned", "v": "values"},
    "attention.attend": {"q": "queries, turned by their position", "k": "keys, turned by their position"},
    "layer.mlp": {"stream": "the residual stream after attention", "hidden": "the normalised stream"},
    "model.norm": {"stream": "the residual stream at the end"},
}
PROBES = ["scheduler.plan", "batch.build", "graph.replay", "sampler.token", *TENSORS]


PREEMPTED = "who is preempted"


@dataclass
class Fact:
    """One thing that happened in a step: a value for each owner, and the slots where the owners' tokens lie."""

    step: int
    what: str
    owners: list[Owner]
    values: Any
    slots: list[int] = field(default_factory=list)


class Differs(Exception):
    """The other run did something else here. The text says where and what."""


@dataclass
class Trace:
    """Listens to an engine and hands on its facts."""

    engine: Engine
    take: Callable[[Fact], None]
    step: int = 0
    owners: list[Owner] = field(default_factory=list)  # of this step's rows in the batch
    slots: list[int] = field(default_factory=list)

    def run(self, most_steps: int) -> int:
        """Step until all is done; how many steps it took."""
        with warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore")  # that layers are not seen in replays
            stack.enter_context(listen(PROBES, self._hear))
            while self.engine.has_requests:
                if self.step >= most_steps:
                    raise Differs(f"after {self.step} steps requests are still not done, the engine's own all are")
                self.step += 1
                self.engine.step()
        return self.step

    def _hear(self, event: Event) -> None:
        if event.name == "scheduler.plan":
            self._plan(event)
        elif event.name == "batch.build":
            rows = event.rows
            self.owners = [(row.request_id, position) for row in rows for position in _positions(row)]
            self.slots = event.batch.slots.tolist()
            self._tell("the slot of a token", self.owners, list(self.slots))
        elif event.name == "graph.replay":  # every row has one token, in the plan's order
            self.slots = event.graphs.rows[2, : event.count].tolist()
            self._tell("rows of the step that is replayed", self.owners, [event.size] * event.count)
            self._tell("the slot of a token", self.owners, list(self.slots))
        elif event.name == "sampler.token":
            owners = [(row.request_id, row.start + row.count) for row in event.rows]
            self._tell("logits", owners, event.logits.clone())
            self._tell("the token that is chosen", owners, event.tokens.tolist())
        else:
            layer = event.values.get("layer")
            for name, what in TENSORS[event.name].items():
                rows = event.values[name].flatten(1).clone()
                self._tell(what if layer is None else f"layer {layer}: {what}", self.owners, rows)

    def _plan(self, event: Event) -> None:
        preempted = [(id, 0) for id in event.plan.preempted]
        self._tell(PREEMPTED, preempted, event.plan.preempted)
        rows = event.plan.rows
        self.owners = [(row.request_id, row.start) for row in rows]
        self._tell("tokens to compute", self.owners, [row.count for row in rows])
        S = self.engine.pool.page_size
        pages = [(r.id, i * S, page) for r in event.scheduler.running for i, page in enumerate(r.pages)]
        self._tell("the page of a position", [entry[:2] for entry in pages], [entry[2] for entry in pages])

    def _tell(self, what: str, owners: list[Owner], values: Any) -> None:
        self.take(Fact(self.step, what, owners, values, self.slots if len(owners) == len(self.slots) else []))


def _positions(row: Any) -> range:
    return range(row.start, row.start + row.count)


def compare(mine: Fact, theirs: Fact, page_size: int) -> None:
    """`Differs` at the first owner for whom two facts are not the same."""
    if mine.what != theirs.what:
        raise Differs(f"step {mine.step}: {_sides(mine.what, theirs.what)}")
    if mine.owners != theirs.owners:
        pairs = zip([*mine.owners, None], [*theirs.owners, None])
        first, (a, b) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        request, position = min(owner for owner in (a, b) if owner is not None)
        where = f"step {mine.step}, request {request}, position {position}: {mine.what}"
        raise Differs(where + _sides(_list(mine, first), _list(theirs, first)))
    for row, (request, position) in enumerate(mine.owners):
        a, b = mine.values[row], theirs.values[row]
        if not _same(a, b):
            slot = _slot(mine.slots[row], page_size) if mine.slots and not mine.what.startswith("the slot") else ""
            where = f"step {mine.step}, request {request}, position {position}{slot}: {mine.what}"
            raise Differs(where + _sides(_value(a, mine.what, page_size), _value(b, mine.what, page_size)))


def _sides(yours: str, engines: str) -> str:
    return f"\n  yours:      {yours}\n  the engine: {engines}"


def _slot(slot: int, page_size: int) -> str:
    return f" (page {slot // page_size} slot {slot % page_size})"


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor):
        return a == b
    if a.shape != b.shape or a.isnan().any():
        return False
    return bool((a - b).abs().max() <= TOLERANCE * max(float(b.abs().max()), 1e-6))


def _value(value: Any, what: str, page_size: int) -> str:
    if isinstance(value, Tensor):
        shown = ", ".join(f"{number:.4g}" for number in value[:4].tolist())
        return f"[{shown}, ...], length {float(torch.linalg.vector_norm(value.float())):.4g}"
    if what.startswith("the slot"):
        return f"page {value // page_size} slot {value % page_size} (slot {value} of the cache)"
    return f"page {value}" if what.startswith("the page") else str(value)


def _list(fact: Fact, first: int) -> str:
    """What a fact says from one of its owners on: ``request 0, position 8: 10; ...``."""
    if isinstance(fact.values, Tensor) or not fact.owners[first:]:
        return f"{len(fact.owners)} rows" if fact.owners[first:] else "nothing" if first == 0 else "nothing more"
    rest = list(zip(fact.owners, fact.values))[first:]
    entries = [
        f"request {r}" if fact.what == PREEMPTED else f"request {r}, position {position}: {_value(value, fact.what, 1)}"
        for (r, position), value in rest[:3]
    ]
    return "; ".join(entries) + ("; ..." if len(rest) > 3 else "")
