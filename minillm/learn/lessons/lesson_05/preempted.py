"""Who had to leave, with what, and how the first of them came back: kept as a run goes by."""

from typing import NamedTuple

from minillm.debug.views.batch_table import batch_table
from minillm.debug.views.drawing import Drawing
from minillm.debug.views.page_map import page_map
from minillm.debug.views.theme import letter
from minillm.debug.views.timeline import SeatLog
from minillm.engine.engine import Engine
from minillm.probe import Event
from minillm.request import Request


class Left(NamedTuple):
    """A request just before it leaves: in which step and for whom, what it holds, and the page map then."""

    step: int
    victim: str
    other: str
    computed: int
    pages: int
    written: int
    page_map: Drawing


class Back(NamedTuple):
    """The step in which somebody came back, who, and that step's batch table."""

    step: int
    who: str
    table: Drawing


class Diary:
    """``with listen(Diary.PROBES, diary.note): ...``. seats: who sat where; left, back: see above."""

    PROBES = ("scheduler.plan", "scheduler.preempt", "scheduler.admit")

    def __init__(self, engine: Engine, requests: list[Request]) -> None:
        self.engine, self.requests = engine, requests
        self.seats = SeatLog()
        self.left: list[Left] = []
        self.back: Back | None = None
        self._returns: Request | None = None

    def note(self, event: Event) -> None:
        if event.name == "scheduler.preempt":
            victim, pages = event.request, page_map(self.engine.pool, self.engine.scheduler.running)
            facts = victim.num_computed, len(victim.pages), len(victim.output_ids)
            self.left.append(Left(event.step, letter(victim.id), letter(event.for_request.id), *facts, pages))
        elif event.name == "scheduler.admit":
            if event.request.num_preemptions and not self._returns:
                self._returns = event.request
        else:
            self.seats.note(event)
            if self._returns and not self.back:
                table = batch_table(event.plan, self.requests, self.engine.config.max_num_batched_tokens)
                self.back = Back(event.plan.step, letter(self._returns.id), table)
