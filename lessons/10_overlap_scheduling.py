"""Lesson 10: overlap scheduling.

Turned on: ``async_scheduling=True``. Two work in an engine: the host plans and books, the device computes. In the plain
loop they take turns, so each waits for the other. Here the host plans the next step while the device is still at this
one. It does not know the token that is being made, and it need not: it says "the one that you sampled last".
"""

from dataclasses import dataclass, field
from statistics import median

from minillm.debug.loop_clock import LoopClock, Span, calmest, gaps, of_device
from minillm.debug.views.theme import letter
from minillm.debug.views.units import amount, counted
from minillm.learn.lesson import Lesson
from minillm.probe import Event, listen

lesson = Lesson(
    number=10,
    title="Overlap scheduling",
    turns_on="async_scheduling=True (before: False)",
    buys="a device that need not wait until the host has planned its next step",
    breaks="overlap.launch,overlap.read,overlap.discard",
)
CLIENTS = 16  # requests that write at the same time, where time is measured
WRITES = 24  # tokens that each of them wants
SHOWN = 3.4  # steps that a time line shows
STOP_AT = 6  # the token at which B's answer stops
ROUNDS = 3


@dataclass
class Served:
    """One run: the tokens of each request, who worked when, and how long it took (only one of them is measured)."""

    tokens: list[list[int]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def first(self) -> int:
        """The first step that all of its requests decode in."""
        return self.spans[0].step + 1

    @property
    def idle(self) -> float:
        """How long the device had nothing to do, between two steps."""
        return median(gaps(self.spans, self.first))

    @property
    def computes(self) -> float:
        """How long the device worked on a step."""
        return median(span.end - span.begin for span in of_device(self.spans, self.first))


def main() -> None:
    lesson.part("In turn: each waits for the other")
    plain = lesson.llm(async_scheduling=False, max_cached_tokens=8192).engine
    before = in_turn(plain)

    lesson.part("One step ahead")
    ahead = lesson.llm(async_scheduling=True, max_cached_tokens=8192).engine
    one_ahead(ahead, before)

    lesson.part("The token in flight")
    small = lesson.llm(async_scheduling=True, max_cached_tokens=1024).engine
    written = in_flight(small)

    lesson.part("The row that is thrown away")
    thrown_away(small, written)

    lesson.part("When it has to wait")
    has_to_wait(ahead, before)

    lesson.part("Before and after")
    before_and_after(plain, ahead)

    lesson.end(
        """Stop when a step is planned whose tokens are not known: [bold]--break overlap.launch --break-when
        'any(request.in_flight for request in scheduler.running)'[/]. Then type [bold]p plan.rows[/].""",
        "Stop in the device's thread: [bold]--break stream.end[/]. Then type [bold]p runner.last_tokens[:4][/].",
        "Everything that host and device do, in its order, a thousand lines: [bold]--log 'overlap.*,stream.*'[/].",
        "Before you run it, say how many rows are thrown away with STOP_AT = 1. Then change it in this file.",
    )


def prompts_of(engine) -> list[list[int]]:
    """The running example: a question, the same with another ending, a long talk, a piece of code."""
    from minillm.learn.example import question, running_example

    example = running_example(engine.tokenizer)
    if lesson.options.prompt:
        example["a question"] = question(engine.tokenizer, lesson.options.prompt)
    return list(example.values())


def ask(engine, prompt_ids: list[int], tokens: int, **wanted):
    """Add a request that wants so many tokens; nothing runs yet."""
    from minillm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, **wanted)
    return engine.add_request(prompt_ids, params, stream=True)


def finish(engine) -> None:
    while engine.has_requests:
        engine.step()


def serve(engine, clients: int = CLIENTS, tokens: int = WRITES) -> list:
    """The running example, asked by so many clients at once, to the end."""
    prompts = prompts_of(engine)
    requests = [ask(engine, prompts[i % len(prompts)], tokens) for i in range(clients)]
    finish(engine)
    return requests


def clocked(engine) -> Served:
    """The same with a clock for the host and one for the device."""
    clock = LoopClock(engine.device)
    with listen(LoopClock.PROBES, clock.note):
        requests = serve(engine)
    return Served([request.output_ids for request in requests], clock.spans())


def timed(engine) -> Served:
    """The same with nobody listening: how long all of it takes."""
    import time

    start = time.perf_counter()
    requests = serve(engine)
    return Served([request.output_ids for request in requests], seconds=time.perf_counter() - start)


def time_line(served: Served, scale: Served):
    """Some steps of a run, to the scale of another."""
    from minillm.debug.views.two_lanes import two_lanes

    first = calmest(served.spans, round(SHOWN), served.first)
    return two_lanes(served.spans, first, SHOWN * (scale.computes + scale.idle))


def in_turn(engine) -> Served:
    """The plain loop in time."""
    serve(engine, tokens=4)  # what is done only once is done now
    served = clocked(engine)
    lesson.say(
        f"""{CLIENTS} clients send the running example. A step has four parts. The host [bold]schedules[/] (who computes
        what, in which pages), and [bold]launches[/] (the plan becomes tensors, the device is set to work). The
        [bold]device[/] computes. Then the host reads the new tokens and [bold]commits[/] them: it books them, makes
        text of them, and ends who is done. Time goes from left to right, as measured here:"""
    )
    lesson.show(time_line(served, served))
    where = "GPU" if engine.device.type == "cuda" else "CPU's cores, which compute the model,"
    lesson.say(
        f"""Host and device take turns. For {amount(served.idle, "s")} between two steps (the median) the {where} had
        nothing to do, and a step was {amount(served.computes, "s")} of computing. This model is small. The faster a
        device is, the more of its time that is: on a GPU a step of a small model takes one or two milliseconds, and the
        host still needs its time."""
    )
    return served


def one_ahead(engine, before: Served) -> None:
    """The overlapped loop in time."""
    serve(engine, tokens=4)
    served = clocked(engine)
    lesson.say(
        """Now the order is another. The host plans and launches step 8 while the device is at step 7, and only then
        reads what came of 7. When the device is done with 7, 8 is in its queue already:"""
    )
    lesson.show(time_line(served, before))
    busy = "" if served.idle < before.idle else " (No less than before: other programs keep this machine's cores busy.)"
    lesson.say(
        f"""Between two steps the device had nothing to do for {amount(served.idle, "s")}.{busy} The host's work is
        still done. It is done at the same time."""
    )
    if engine.device.type == "cuda":
        lesson.say("The device's times come from CUDA events: the GPU notes them down itself when it gets there.")
    else:
        lesson.say(
            """Where is a device on a CPU? A second thread stands in for it here ([bold]CpuStream[/]). It takes one
            launched step after the other, like a GPU's stream. The picture is real, but little time is saved: both
            threads share the same cores, and only one of them can run Python at a time. A GPU shares nothing with the
            host."""
        )


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


def in_flight(engine) -> list[int]:
    """One request's rows: what the plan says, and what the device puts in its place. The tokens that it wrote."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table

    flights: dict[int, Flight] = {}
    request = ask(engine, prompts_of(engine)[0], STOP_AT + 1)

    def planned(event: Event) -> None:
        (row,) = event.plan.rows
        facts = event.plan.step, row.start, len(row.token_ids), request.num_known, request.in_flight, row.seat
        flights[event.plan.step] = Flight(*facts)

    def computed(event: Event) -> None:
        flights[event.plan.step].ids = event.batch.input_ids.tolist()

    with listen("overlap.launch", planned), listen("batch.build", computed):
        finish(engine)
    lesson.say(
        f"""Step by step for one request, the question. Its prompt has {len(request.prompt_ids)} tokens. Each row below
        was planned [bold]before[/] the step above it was read:"""
    )
    columns = [
        Col("step", "right"), Col("the host knows", "right"), Col("in flight", "right"), Col("the plan says"),
        Col("the device puts in"),
    ]  # fmt: skip
    rows = [[str(f.step), f"{f.known} tokens", str(f.in_flight), said(f), put_in(f, engine)] for f in flights.values()]
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))
    lesson.say(
        """A token is [bold]in flight[/] when a step that samples it is launched, and nobody has read it. The host
        counts it (request.in_flight) and knows where its key and value will go: position and page need no token. Only
        the token's number is missing. The plan leaves it out, and the device takes it from
        [bold]last_tokens\\[seat][/], where the sampler has left it. It never goes to the host and back."""
    )
    return request.output_ids


def said(flight: Flight) -> str:
    """What the plan has in the place of tokens."""
    if flight.named:
        return f"{counted(flight.named, 'token')}, from position {flight.start}"
    return f"position {flight.start}: last of seat {flight.seat}"


def put_in(flight: Flight, engine) -> str:
    """The tokens that went into the model. A recorded graph runs no Python, so nobody has seen them there."""
    if not flight.ids:
        return "in a CUDA graph"
    if flight.named:
        return "these"
    return f"{flight.ids[0]} {engine.tokenizer.decode(flight.ids)!r}"


@dataclass
class Ending:
    """By step: who had a row in it, and whose was thrown away. ended: by request, the step that made its last token."""

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


def thrown_away(engine, written: list[int]) -> None:
    """A question ends with a stop token, another by its length: one has a row too many, the other none."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table

    prompts, stop = prompts_of(engine), written[STOP_AT - 1]
    end = written.index(stop) + 1
    requests = [ask(engine, prompts[0], WRITES, stop_token_ids=[stop]), ask(engine, prompts[1], end + 3)]
    first, second = (letter(request.id) for request in requests)
    ending = Ending()
    with listen(["overlap.launch", "engine.step"], ending.note):
        finish(engine)
    known = ending.ended[requests[0].id]
    lesson.say(
        f"""{first} is the question again, and is to stop at the token {engine.tokenizer.decode([stop])!r}. {second} has
        the other ending, and wants {end + 3} tokens. That {first} has ended, the host learns when it reads step
        {known}. By then step {known + 1} is launched, and has a row of {first}:"""
    )
    columns = [Col("step", "right"), Col(first), Col(second)]
    rows = [
        [str(step), *(fate(ending, step, request.id) for request in requests)]
        for step in ending.rows
        if step >= known - 1
    ]
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))
    held = engine.pool.num_pages - engine.scheduler.manager.num_available
    lesson.say(
        f"""Thrown away: [bold]{counted(sum(map(len, ending.gone.values())), "row")}[/] (overlap.discard). Nothing of it
        is left. {first} has its {counted(len(requests[0].output_ids), "token")} and no more, and requests still hold
        {counted(held, "page")}. {second} ended by its length, which can be counted before a token is known: with its
        last token in flight it gets no row, and nothing is thrown away."""
    )
    lesson.say(
        f"""One thing looks dangerous. {first}'s pages are free while the device still writes a key and a value into
        one of them. Somebody else may get that page in the next plan. But the device works in order: what the new
        owner writes comes later, and is read later still."""
    )


def fate(ending: Ending, step: int, request_id: int) -> str:
    """What became of a request's row in a step."""
    if request_id in ending.gone.get(step, ()):
        return "computed, thrown away"
    if request_id not in ending.rows[step]:
        return "-"
    return "its last token" if ending.ended.get(request_id) == step else "a token"


def order_of(engine, prompt_ids: list[int], grammar) -> list[str]:
    """What the host does for one request: launches and reads, with the steps' numbers."""
    order, zero = [], engine.scheduler.num_steps

    def note(event: Event) -> None:
        order.append(f"{'launch' if event.name == 'overlap.launch' else 'read'} {event.plan.step - zero}")

    ask(engine, prompt_ids, 6, structured_outputs=grammar)
    with listen(["overlap.launch", "engine.step"], note):
        finish(engine)
    return order


def has_to_wait(engine, before: Served) -> None:
    """With a grammar about, the result is read first: the order of the host's work, and the time line."""
    from minillm import StructuredOutputsParams
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table

    prompts = prompts_of(engine)
    limits = {"without": None, "with": StructuredOutputsParams(regex="[a-z ]{40}")}
    orders = {name: order_of(engine, prompts[0], grammar) for name, grammar in limits.items()}
    lesson.say(
        """A grammar says which tokens may come next (lesson 07). That depends on the token before, by its number. So
        while a request with a grammar runs, the host reads a step before it plans another. What the host does, in
        order:"""
    )
    columns = [Col("a grammar"), *(Col("") for _ in range(6))]
    rows = [[name, *order[:6]] for name, order in orders.items()]
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))
    clock = LoopClock(engine.device)
    with listen(LoopClock.PROBES, clock.note):
        ask(engine, prompts[0], WRITES, structured_outputs=StructuredOutputsParams(regex="[a-z ]{100}"))
        serve(engine, CLIENTS - 1)
    served = Served(spans=clock.spans())
    lesson.say(
        f"""One such request is enough, and all others in the batch wait with it. {CLIENTS} clients again, one of them
        with a grammar:"""
    )
    lesson.show(time_line(served, before))


def before_and_after(plain, ahead) -> None:
    """Both loops in turn, measured several times."""
    from minillm.debug.views.compare import before_after

    clocks, whole = [], []
    for _ in lesson.each(range(ROUNDS), "serving them with both loops"):
        clocks.append((clocked(plain), clocked(ahead)))
        whole.append((timed(plain), timed(ahead)))

    def row(name: str, measure, runs, better: str = "lower") -> tuple:
        return name, *([measure(pair[i]) for pair in runs] for i in (0, 1)), "s", better

    lesson.say(f"{CLIENTS} clients, {WRITES} tokens each, {ROUNDS} times in turn; the median of each measure:")
    lesson.show(
        before_after(
            [
                row("the device has nothing to do, between two steps", lambda one: one.idle, clocks),
                row("the device is at a step", lambda one: one.computes, clocks, ""),
                row("time for all", lambda one: one.seconds, whole),
            ],
            before="in turn",
            after="one ahead",
        )
    )
    same = all(a.tokens == b.tokens for a, b in (*clocks, *whole))
    lesson.say(f"The same tokens, both times: [good]{same}[/].")
    if ahead.device.type != "cuda":
        lesson.say(
            """On a CPU the time for all is much the same: the step gets longer by what the host takes from it. So the
            switch is off on a CPU, and on where there is a GPU. On an H200, 64 requests to a model of 0.6 billion
            parameters went from 26,935 to 31,155 tokens a second with it (docs/performance.md)."""
        )


if __name__ == "__main__":
    lesson.run(main)
