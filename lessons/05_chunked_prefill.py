"""Lesson 05: chunked prefill, and preemption.

Turned on: ``enable_chunked_prefill=True`` with a small token budget. A long prompt computed in one step makes that step
long, and everybody who is writing waits for it. Cut into chunks, it goes along with the others' steps, a piece at a
time. The second half is about the other thing that can run out, pages: who must leave, what is lost, and how it comes
back.
"""

from collections.abc import Callable
from functools import partial
from statistics import median

from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=5,
    title="Chunked prefill",
    turns_on="enable_chunked_prefill=True, max_num_batched_tokens=64",
    buys="a long prompt that does not stop everybody else",
    breaks="scheduler.plan,scheduler.preempt",
)

from minillm.debug.views.compare import before_after
from minillm.debug.views.page_map import page_map
from minillm.debug.views.spread import as_much, spread
from minillm.debug.views.step_times import step_times
from minillm.debug.views.table import Col, drawn, numbers
from minillm.debug.views.timeline import seat_timeline
from minillm.debug.views.units import amount
from minillm.learn.asking import finish
from minillm.learn.lessons.lesson_05.long_prompt import Served, Traffic, between, context_limit, example_traffic
from minillm.learn.lessons.lesson_05.preempted import Diary
from minillm.learn.lessons.lesson_05.writers import Writers
from minillm.learn.timing import ROUNDS, in_turns
from minillm.probe import listen

CHUNK = 64  # the token budget of a step, with chunked prefill
BUDGETS = CHUNK, 256, 2048  # those that are compared; the last is more than all prompts together
WANTS = (44, 60, 52, 48)  # tokens that four requests want of a cache that is too small for them
OTHER_WANTS = (60, 60, 60, 20) if WANTS[-1] > 20 else (44, 60, 52, 48)  # to try


def main() -> None:
    lesson.part("A long prompt in one step: everybody waits")
    limit = context_limit(lesson.options.model)
    whole = lesson.llm(enable_chunked_prefill=False, max_model_len=limit).engine
    traffic = example_traffic(whole.tokenizer, whole.setup.max_model_len, lesson.options.prompt)
    before = everybody_waits(whole, traffic)

    lesson.part("The same prompt in chunks")
    chunked = lesson.llm(enable_chunked_prefill=True, max_num_batched_tokens=CHUNK, max_model_len=limit).engine
    in_chunks(chunked, traffic, until=before.seconds)

    lesson.part("Before and after")
    runs = in_turn(whole, chunked, traffic, limit)
    before_and_after(runs)

    lesson.part("How large should a step be?")
    budgets(runs)

    lesson.part("Pages run out: somebody must leave")
    writers = Writers(traffic.prompts[:-1], WANTS)
    tight = lesson.llm(page_size=16, num_pages=writers.few_pages, max_num_seqs=len(WANTS)).engine
    diary = Diary(tight, writers.add(tight))
    pages_run_out(tight, diary)

    left = tight.scheduler.num_preemptions > 0
    lesson.part("It comes back, and has lost nothing but time" if left else "Nobody had to leave")
    comes_back(tight, diary)
    price(diary.requests, writers)

    lesson.end(
        """Stop before somebody is preempted: [bold]--break scheduler.preempt[/]. Who must leave is [bold]victim[/],
        who needs the page is [bold]request[/].""",
        "Stop only where a prompt is cut: [bold]--break scheduler.admit --break-when 'count < request.num_pending'[/].",
        "Follow one request's pages: [bold]--break kv.allocate,kv.free --break-when 'request.id == 2'[/].",
        f"Before you run it, say who must leave with WANTS = {OTHER_WANTS}. Then change it in this file.",
    )


def everybody_waits(engine, traffic: Traffic) -> Served:
    """The run without chunks, in time."""
    served = traffic.serve(engine)
    lesson.say(f"""Three requests write: A, B and C. When each has {traffic.arrives} tokens, D arrives, with a prompt of
        {len(traffic.prompts[-1]):,} tokens. A row is a request, time goes from left to right, as measured here. Where a
        small letter stands, a token came out:""")
    lesson.show(served.in_time(until=served.seconds))
    stall, usual = served.longest_gap, median(served.gaps)
    lesson.say(f"""One step takes in all of D's prompt, and lasts {amount(stall, "s")}. A, B and C are in that step too,
        so their readers see the text stand still: [warn]{stall / usual:,.0f} times[/] as long as usual.""")
    return served


def in_chunks(engine, traffic: Traffic, until: float) -> None:
    """The same with a small token budget: one mixed step, and the run in time."""
    lesson.say(f"""A step now has a budget of {CHUNK} tokens (max_num_batched_tokens). Those who write come first and
        take one each; D gets what is left, a chunk, and goes on where it stopped in the next step. One such step:""")
    served = traffic.serve(engine)
    if served.mixed:
        lesson.show(served.mixed)
    lesson.say(f"""The positions say which of a request's tokens are computed, pending is how many are known without
        keys and values, before and after. D samples nothing yet: it has no next token before its prompt's last one is
        computed. That took {served.chunks} steps, and in each of them A, B and C got a token too. The run in time:""")
    lesson.show(served.in_time(until))


def in_turn(whole, chunked, traffic: Traffic, limit: int | None) -> dict[int, list[Served]]:
    """The same traffic with every token budget, several times in turns."""
    engines = {BUDGETS[0]: chunked, BUDGETS[-1]: whole}
    for budget in BUDGETS[1:-1]:
        engines[budget] = lesson.quiet_llm(max_num_batched_tokens=budget, max_model_len=limit).engine
    ways = {budget: partial(traffic.serve, engines[budget]) for budget in BUDGETS}
    return in_turns(ways, lesson.each(ROUNDS, "serving them with each budget"))


def before_and_after(runs: dict[int, list[Served]]) -> None:
    """A's times between tokens as a plot, and what was measured in one step and in chunks."""
    both = {"one step": runs[BUDGETS[-1]], "chunks": runs[CHUNK]}

    def row(name: str, measure: Callable[[Served], float], better: str = "lower") -> tuple:
        return name, *([measure(one) for one in served] for served in both.values()), "s", better

    lesson.say("The time from each of A's tokens to the next, one after the other:")
    lesson.show(step_times({name: between(served[-1].times[0]) for name, served in both.items()}, height=8, x="token"))
    lesson.say(f"""Both were run {len(ROUNDS)} times, in turns: the median of each measure, and in brackets the least
        and the most.""")
    waits = [[one.first_token for one in served] for served in both.values()]
    rows = [
        row("longest time between tokens of A, B, C", lambda served: served.longest_gap),
        row("median time between tokens", lambda served: median(served.gaps), ""),
        ("D waits for its first token", *waits, "s", "lower"),
        row("time for all four", lambda served: served.seconds),
    ]
    lesson.show(before_after(rows, before="in one step", after=f"chunks of {CHUNK}"))
    same = all(one.tokens == other.tokens for one, other in zip(*both.values()))
    lesson.say(f"""The same tokens, both times: [good]{same}[/]. With chunks, D's first token took
        [bold]{as_much(waits[1], waits[0], "long")}[/] without. D shares its steps with the others, and every chunk
        looks again at all that was computed before it; in return no step is as long as D's whole prompt.""")


def budgets(runs: dict[int, list[Served]]) -> None:
    """The same traffic with all token budgets."""
    lesson.say("""The budget is a choice between those who write and those who come. A large step makes the writers
        wait. A small one cuts the prompt into many pieces, and each of them reads all weights of the model again. The
        same runs, and one more budget in turn with them. Where brackets of one column overlap, the difference is
        within noise:""")
    rows = []
    for budget, served in runs.items():
        times = [(run.longest_gap, run.first_token, run.seconds) for run in served]
        rows.append([f"{budget:,}", *(spread(seconds, "s", "\n") for seconds in zip(*times))])
    titles = "longest between tokens", "first token of D", "time for all"
    lesson.show(drawn([*numbers("token budget"), *(Col(title, "right", wraps=True) for title in titles)], rows))


def pages_run_out(engine, diary: Diary) -> None:
    """Let four requests grow in a small cache until one has to leave: the page map before and after that step."""
    lesson.say(f"""A request takes pages as it grows, and nobody knows how long it will become. Here are {len(WANTS)}
        that grow in a cache of {engine.pool.num_pages} pages:""")
    with listen(Diary.PROBES, diary.note):
        while not engine.scheduler.num_preemptions and engine.has_requests:
            engine.step()
    for left in diary.left:
        lesson.say(f"In step {left.step} all pages are taken, and {left.other} needs one more:")
        lesson.show(left.page_map)
        lesson.say(f"""[bold]{left.victim}[/] came last, so {left.victim} must leave: it is preempted
            (scheduler.preempt). It loses its {left.pages} pages, and with them the keys and values of {left.computed}
            tokens. It keeps the {left.written} tokens that it has written, and waits at the front of the queue.
            {left.other} has its page, the others go on:""")
    if engine.scheduler.num_preemptions:
        lesson.show(page_map(engine.pool, engine.scheduler.running))
    else:
        lesson.say(f"""All have ended after {engine.scheduler.num_steps} steps, and the pages never ran out: whoever
            ended gave its own back before the others needed more.""")


def comes_back(engine, diary: Diary) -> None:
    """Run to the end: the step that recomputes, and the time line of it all."""
    with listen(Diary.PROBES, diary.note):
        finish(engine)
    if back := diary.back:
        lesson.say(f"""In step {back.step} there are pages again. {back.who} comes in like a new request, whose prompt
            is all that it had: its own prompt and what it had written. One step computes the keys and values anew:""")
        lesson.show(back.table)
    again = " A second capital is a request that came back:" if engine.scheduler.num_preemptions else ""
    lesson.say(f"The whole run.{again}")
    lesson.show(seat_timeline(diary.seats))


def price(requests: list, writers: Writers) -> None:
    """The same four with few pages and with enough: what preemption cost, and that it changed no token."""
    few, enough = writers.few_pages, 4 * writers.few_pages
    engines = [lesson.quiet_llm(page_size=16, num_pages=pages).engine for pages in (few, enough)]
    rounds = lesson.each(ROUNDS, "growing with each cache")
    runs = list(in_turns({engine: partial(writers.grow, engine) for engine in engines}, rounds).values())
    scarce, plenty = (grown[0] for grown in runs)
    rows = [
        ("preemptions", scarce.preemptions, plenty.preemptions),
        ("steps for all", scarce.steps, plenty.steps, "", "lower"),
        ("tokens computed", scarce.computed, plenty.computed, "", "lower"),
        ("time for all", *([run.seconds for run in grown] for grown in runs), "s", "lower"),
    ]
    lesson.show(before_after(rows, before=f"{few} pages", after=f"{enough} pages"))
    same = [request.output_ids for request in requests] == scarce.tokens == plenty.tokens
    compared = "with preemption and without" if scarce.preemptions else "with few pages and with enough, both times"
    lesson.say(f"""The same tokens, {compared}: [good]{same}[/]. So an engine need not keep memory for the worst case:
        it admits as many as fit now, and takes a step back when it was too hopeful.""")


if __name__ == "__main__":
    lesson.run(main)
