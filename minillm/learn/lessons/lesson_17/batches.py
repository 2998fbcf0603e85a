"""Batches of requests, each of another text: what a decode step takes, and how many experts it reads."""

from statistics import mean, median

from minillm.debug.views.drawing import Drawing
from minillm.debug.views.spread import spread
from minillm.debug.views.table import Cells, Col, drawn
from minillm.debug.views.units import amount
from minillm.engine.engine import Engine
from minillm.learn.asking import ask, finish
from minillm.learn.example import PROGRAM, QUESTION, TALK, conversation
from minillm.learn.lessons.lesson_17.routing import Routing, note_routes
from minillm.learn.timing import time_steps
from minillm.probe import listen

TOKENS = 24  # that each request writes


def add_requests(engine: Engine, requests: int) -> None:
    """Beginnings of different texts: pieces of the glossary talk and of the code."""
    tokenizer = engine.tokenizer
    ids = [*tokenizer.encode(PROGRAM), *conversation(tokenizer, TALK, QUESTION)]
    for i in range(requests):
        start = i * (len(ids) - 8) // max(requests, 2)
        ask(engine, ids[start : start + 8], TOKENS)


def serve(engine: Engine, requests: int) -> float:
    """The median time of a decode step with so many requests."""
    add_requests(engine, requests)
    seconds, _ = time_steps(engine)
    return median(seconds[1:])


def touched(engine: Engine, requests: int) -> float:
    """How many experts of a layer compute in a decode step of so many requests, on average."""
    found: list[Routing] = []
    add_requests(engine, requests)
    with listen("moe.route", note_routes(found)):
        finish(engine)
    return mean(len(routed.experts.unique()) for routed in found if len(routed.experts) == requests)


def in_a_table(
    experts: dict[int, float], read: dict[int, float], times: dict[int, list[list[float]]], E: int
) -> Drawing:
    """A row a number of requests: experts of a layer that are read, of E; bytes; a step's seconds, here and dense."""
    rows: list[Cells] = [
        [
            str(count),
            f"{experts[count]:.1f}",
            amount(read[count], "B"),
            *(spread(rounds, "s", "\n") for rounds in times[count]),
        ]
        for count in experts
    ]
    titles = "requests", f"experts read, of {E}", "weights read", "a step", "dense, as wide as all"
    return drawn([Col(title, "right", wraps=True) for title in titles], rows)
