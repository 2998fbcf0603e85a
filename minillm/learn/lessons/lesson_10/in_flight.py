"""Tokens that are planned with before anybody knows them: what the plan says, what the device puts in its place."""

from dataclasses import dataclass, field

from minillm.debug.views.drawing import Drawing
from minillm.debug.views.table import Cells, Col, drawn, numbers
from minillm.debug.views.units import counted
from minillm.engine.engine import Engine
from minillm.learn.asking import finish
from minillm.probe import Event, listen
from minillm.request import Request


@dataclass
class Flight:
    """One row of a request, as it was planned and as it was computed."""

    step: int
    start: int
    named: int  # how many tokens the plan names
    known: int  # how many the host knew by number
    in_flight: int
    seat: int
    ids: list[int] = field(default_factory=list)  # what the device put in

    def said(self) -> str:
        """What the plan has in the place of tokens."""
        if self.named:
            return f"{counted(self.named, 'token')}, from position {self.start}"
        return f"position {self.start}: last of seat {self.seat}"

    def put_in(self, engine: Engine) -> str:
        """The tokens that went into the model. A recorded graph runs no Python, so nobody has seen them there."""
        if not self.ids:
            return "in a CUDA graph"
        return "these" if self.named else f"{self.ids[0]} {engine.tokenizer.decode(self.ids)!r}"


def follow(engine: Engine, request: Request) -> Drawing:
    """The one request's rows, step by step, to its end."""
    flights: dict[int, Flight] = {}

    def planned(event: Event) -> None:
        (row,) = event.plan.rows
        facts = event.plan.step, row.start, len(row.token_ids), request.num_known, request.in_flight, row.seat
        flights[event.plan.step] = Flight(*facts)

    def computed(event: Event) -> None:
        flights[event.plan.step].ids = event.batch.input_ids.tolist()

    with listen("overlap.launch", planned), listen("batch.build", computed):
        finish(engine)
    rows: list[Cells] = [
        [str(f.step), f"{f.known} tokens", str(f.in_flight), f.said(), f.put_in(engine)] for f in flights.values()
    ]
    columns = [*numbers("step", "the host knows", "in flight"), Col("the plan says"), Col("the device puts in")]
    return drawn(columns, rows)
