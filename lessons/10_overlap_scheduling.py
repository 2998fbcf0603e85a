"""Lesson 10: overlap scheduling.

Turned on: ``async_scheduling=True``. Two work in an engine: the host plans and books, the device computes. In the plain
loop they take turns, so each waits for the other. Here the host plans the next step while the device is still at this
one. It does not know the token that is being made, and it need not: it says "the one that you sampled last".
"""

from collections.abc import Callable

from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=10,
    title="Overlap scheduling",
    turns_on="async_scheduling=True (before: False)",
    buys="a device that need not wait until the host has planned its next step",
    breaks="overlap.launch,overlap.read,overlap.discard",
)

from minillm import StructuredOutputsParams
from minillm.debug.views.compare import before_after
from minillm.debug.views.spread import as_much
from minillm.debug.views.table import Col, drawn
from minillm.debug.views.theme import letter
from minillm.debug.views.units import amount, counted
from minillm.learn.asking import ask, finish
from minillm.learn.example import running_example
from minillm.learn.lessons.lesson_10.clients import CLIENTS, WRITES, Served, clocked, order_of_work, serve, timed
from minillm.learn.lessons.lesson_10.ending import Ending
from minillm.learn.lessons.lesson_10.in_flight import follow
from minillm.probe import listen

STOP_AT = 6  # the token at which B's answer stops
ROUNDS = 3


def main() -> None:
    lesson.part("In turn: each waits for the other")
    plain = lesson.llm(async_scheduling=False, max_cached_tokens=8192).engine
    prompts = list(running_example(plain.tokenizer, lesson.options.prompt).values())
    before = in_turn(plain, prompts)

    lesson.part("One step ahead")
    ahead = lesson.llm(async_scheduling=True, max_cached_tokens=8192).engine
    one_ahead(ahead, prompts, before)

    lesson.part("The token in flight")
    small = lesson.llm(async_scheduling=True, max_cached_tokens=1024).engine
    written = in_flight(small, prompts[0])

    lesson.part("The row that is thrown away")
    thrown_away(small, prompts, written)

    lesson.part("When it has to wait")
    has_to_wait(ahead, prompts, before)

    lesson.part("Before and after")
    before_and_after(plain, ahead, prompts)

    lesson.end(
        """Stop when a step is planned whose tokens are not known: [bold]--break overlap.launch --break-when
        'any(request.in_flight for request in scheduler.running)'[/]. Then type [bold]p plan.rows[/].""",
        "Stop in the device's thread: [bold]--break stream.end[/]. Then type [bold]p runner.last_tokens[:4][/].",
        "Everything that host and device do, in its order, a thousand lines: [bold]--log 'overlap.*,stream.*'[/].",
        "Before you run it, say how many rows are thrown away with STOP_AT = 1. Then change it in this file.",
    )


def in_turn(engine, prompts: list[list[int]]) -> Served:
    """The plain loop in time."""
    serve(engine, prompts, tokens=4)  # what is done only once is done now
    served = clocked(engine, prompts)
    lesson.say(f"""{CLIENTS} clients send the running example. A step has four parts. The host [bold]schedules[/] (who
        computes what, in which pages), and [bold]launches[/] (the plan becomes tensors, the device is set to work). The
        [bold]device[/] computes. Then the host reads the new tokens and [bold]commits[/] them: it books them, makes
        text of them, and ends who is done. Time goes from left to right, as measured here:""")
    lesson.show(served.in_time(scale=served))
    where = "the GPU had nothing to do"
    if engine.device.type != "cuda":
        where = "nothing of the model was computed (the device is the CPU here, and one of its cores ran the host)"
    lesson.say(f"""Host and device take turns. For {amount(served.idle, "s")} between two steps (the median) {where},
        and a step was {amount(served.computes, "s")} of computing. This model is small. The faster a device is, the
        more of its time that is: on a GPU a step of a small model takes one or two milliseconds, and the host still
        needs its time.""")
    return served


def one_ahead(engine, prompts: list[list[int]], before: Served) -> None:
    """The overlapped loop in time."""
    serve(engine, prompts, tokens=4)
    served = clocked(engine, prompts)
    lesson.say("""Now the order is another. The host plans and launches step 8 while the device is at step 7, and only
        then reads what came of 7. When the device is done with 7, 8 is in its queue already:""")
    lesson.show(served.in_time(scale=before))
    busy = "" if served.idle < before.idle else " (No less than before: other programs keep this machine's cores busy.)"
    lesson.say(f"""Between two steps the device had nothing to do for {amount(served.idle, "s")}.{busy} The host's work
        is still done. It is done at the same time.""")
    if engine.device.type == "cuda":
        lesson.say("The device's times come from CUDA events: the GPU notes them down itself when it gets there.")
    else:
        lesson.say("""Where is a device on a CPU? A second thread stands in for it here ([bold]CpuStream[/]). It takes
            one launched step after the other, like a GPU's stream. The picture is real, but little time is saved: both
            threads share the same cores, and only one of them can run Python at a time. A GPU shares nothing with the
            host.""")


def in_flight(engine, prompt_ids: list[int]) -> list[int]:
    """One request's rows: what the plan says, and what the device puts in its place. The tokens that it wrote."""
    request = ask(engine, prompt_ids, STOP_AT + 1, stream=True)
    rows = follow(engine, request)
    lesson.say(f"""Step by step for one request, the question. Its prompt has {len(request.prompt_ids)} tokens. Each row
        below was planned [bold]before[/] the step above it was read:""")
    lesson.show(rows)
    lesson.say("""A token is [bold]in flight[/] when a step that samples it is launched, and nobody has read it. The
        host counts it (request.in_flight) and knows where its key and value will go: position and page need no token.
        Only the token's number is missing. The plan leaves it out, and the device takes it from
        [bold]last_tokens\\[seat][/], where the sampler has left it. It never goes to the host and back.""")
    return request.output_ids


def thrown_away(engine, prompts: list[list[int]], written: list[int]) -> None:
    """A question ends with a stop token, another by its length: one has a row too many, the other none."""
    stop = written[STOP_AT - 1]
    end = written.index(stop) + 1
    requests = [ask(engine, prompts[0], WRITES, stream=True, stop_token_ids=[stop])]
    requests.append(ask(engine, prompts[1], end + 3, stream=True))
    first, second = (letter(request.id) for request in requests)
    ending = Ending()
    with listen(Ending.PROBES, ending.note):
        finish(engine)
    known = ending.ended[requests[0].id]
    lesson.say(f"""{first} is the question again, and is to stop at the token {engine.tokenizer.decode([stop])!r}.
        {second} has the other ending, and wants {end + 3} tokens. That {first} has ended, the host learns when it reads
        step {known}. By then step {known + 1} is launched, and has a row of {first}:""")
    lesson.show(ending.in_a_table(requests, since=known - 1))
    held = engine.pool.num_pages - engine.scheduler.manager.num_available
    lesson.say(f"""Thrown away: [bold]{counted(ending.thrown_away, "row")}[/] (overlap.discard). Nothing of it is left.
        {first} has its {counted(len(requests[0].output_ids), "token")} and no more, and requests still hold
        {counted(held, "page") if held else "no page"}. {second} ended by its length, which can be counted before a
        token is known: with its last token in flight it gets no row, and nothing is thrown away.""")
    lesson.say(f"""One thing looks dangerous. {first}'s pages are free while the device still writes a key and a value
        into one of them. Somebody else may get that page in the next plan. But the device works in order: what the new
        owner writes comes later, and is read later still.""")


def has_to_wait(engine, prompts: list[list[int]], before: Served) -> None:
    """With a grammar about, the result is read first: the order of the host's work, and the time line."""
    limits = {"without": None, "with": StructuredOutputsParams(regex="[a-z ]{40}")}
    orders = {
        name: order_of_work(engine, prompts[0], 6, structured_outputs=grammar) for name, grammar in limits.items()
    }
    lesson.say("""A grammar says which tokens may come next (lesson 07). That depends on the token before, by its
        number. So while a request with a grammar runs, the host reads a step before it plans another. What the host
        does, in order:""")
    rows = [[name, *order[:6]] for name, order in orders.items()]
    lesson.show(drawn([Col("a grammar"), *(Col("") for _ in range(6))], rows))
    served = clocked(engine, prompts, structured_outputs=StructuredOutputsParams(regex="[a-z ]{100}"))
    lesson.say(f"""One such request is enough, and all others in the batch wait with it. {CLIENTS} clients again, one of
        them with a grammar:""")
    lesson.show(served.in_time(scale=before))


def before_and_after(plain, ahead, prompts: list[list[int]]) -> None:
    """Both loops in turn, measured several times."""
    clocks, whole = [], []
    for _ in lesson.each(range(ROUNDS), "serving them with both loops"):
        clocks.append([clocked(engine, prompts) for engine in (plain, ahead)])
        whole.append([timed(engine, prompts) for engine in (plain, ahead)])

    def row(name: str, measure: Callable[[Served], float], runs: list, better: str = "lower") -> tuple:
        return name, *([measure(pair[side]) for pair in runs] for side in (0, 1)), "s", better

    rows = [
        row("the device has nothing to do, between two steps", lambda one: one.idle, clocks),
        row("the device is at a step", lambda one: one.computes, clocks, ""),
        row("time for all", lambda one: one.seconds, whole),
    ]
    lesson.say(f"{CLIENTS} clients, {WRITES} tokens each, {ROUNDS} times in turn; the median, the least and the most:")
    lesson.show(before_after(rows, before="in turn", after="one ahead"))
    same = all(a.tokens == b.tokens for a, b in (*clocks, *whole))
    lesson.say(f"The same tokens, both times: [good]{same}[/].")
    if ahead.device.type != "cuda":
        alone, together = ([pair[side].seconds for pair in whole] for side in (0, 1))
        lesson.say(f"""One ahead, all of it took {as_much(together, alone, "long")} in turn. On a CPU nothing is to be
            had: a step gets longer by what the host takes from it. So the switch is off there, and on with a GPU. On an
            H200, 64 requests to a model of 0.6 billion parameters went from 26,935 to 31,155 tokens a second with it
            (docs/performance.md).""")


if __name__ == "__main__":
    lesson.run(main)
