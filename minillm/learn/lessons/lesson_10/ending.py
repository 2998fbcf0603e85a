"""Two requests until both have ended: who had a row in which step, and whose was thrown away."""

from dataclasses import dataclass, field

from minillm.debug.views.drawing import Drawing
from minillm.debug.views.table import Cells, Col, drawn
from minillm.debug.views.theme import letter
from minillm.probe import Event
from minillm.request import Request


@dataclass
class Ending:
    """``with listen(Ending.PROBES, ending.note): ...``

    rows, gone: by step, whose rows, and whose were thrown away. ended: by request, the step that made its last token.
    """

    PROBES = ("overlap.launch", "engine.step")

    rows: dict[int, list[int]] = field(default_factory=dict)
    gone: dict[int, list[int]] = field(default_factory=dict)
    ended: dict[int, int] = field(default_factory=dict)

    def note(self, event: Event) -> None:
        if event.name == "overlap.launch":
            self.rows[event.plan.step] = [row.request_id for row in event.plan.rows]
            return
        alive = {request.id for request in event.engine.scheduler.running}  # engine.step: after the commit
        for id in event.result.tokens:
            if id in self.ended:
                self.gone.setdefault(event.plan.step, []).append(id)
            elif id not in alive:
                self.ended[id] = event.plan.step

    @property
    def thrown_away(self) -> int:
        """How many rows."""
        return sum(map(len, self.gone.values()))

    def fate(self, step: int, request_id: int) -> str:
        """What became of a request's row in a step."""
        if request_id in self.gone.get(step, ()):
            return "computed, thrown away"
        if request_id not in self.rows[step]:
            return "-"
        return "its last token" if self.ended.get(request_id) == step else "a token"

    def in_a_table(self, requests: list[Request], since: int) -> Drawing:
        """A row a step, a column a request."""
        rows: list[Cells] = [
            [str(step), *(self.fate(step, request.id) for request in requests)] for step in self.rows if step >= since
        ]
        return drawn([Col("step", "right"), *(Col(letter(request.id)) for request in requests)], rows)
