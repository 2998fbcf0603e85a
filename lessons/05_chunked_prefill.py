"""Lesson 05: chunked prefill, and preemption.

Turned on: ``enable_chunked_prefill=True`` with a small token budget. A long prompt computed in one step makes that step
long, and everybody who is writing waits for it. Cut into chunks, it goes along with the others' steps, a piece at a
time. The second half is about the other thing that can run out, pages: who must leave, what is lost, and how it comes
back.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from minillm.debug.views.theme import letter
from minillm.debug.views.timeline import Cell, SeatLog, Track, seat_timeline, token_timeline
from minillm.debug.views.units import amount
from minillm.learn.lesson import Lesson
from minillm.probe import Event, listen

lesson = Lesson(
    number=5,
    title="Chunked prefill",
    turns_on="enable_chunked_prefill=True, max_num_batched_tokens=64",
    buys="a long prompt that does not stop everybody else",
    breaks="scheduler.plan,scheduler.preempt",
)
CHUNK = 64  # the token budget of a step, with chunked prefill
BUDGETS = 128, 512  # others to try
LONG = 1500  # tokens of the long prompt; less if the model's context is shorter
ARRIVES = 12  # it comes when the others have written so many tokens
WRITES, ANSWER = 48, 8  # tokens that each of the others wants, and the long one
REPEATS = 2  # runs beside the first, for medians
WANTS = (44, 60, 52, 48)  # tokens that four requests want of a cache that is too small for them
OTHER_WANTS = (60, 60, 60, 20) if WANTS[-1] > 20 else (44, 60, 52, 48)  # to try


@dataclass
class Served:
    """One run: three requests that write, and a long prompt among them. Times are seconds from its start.

    times: for each request, when each of its tokens came. arrived: when each was added; the long one is the last.
    """

    seats: SeatLog = field(default_factory=SeatLog)
    arrived: list[float] = field(default_factory=list)
    times: list[list[float]] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    mixed: object = None  # the batch table of one step with decode rows and a part of the prompt

    @property
    def gaps(self) -> list[float]:
        """The times between tokens of all but the long one."""
        return [gap for times in self.times[:-1] for gap in between(times)]

    @property
    def first_token(self) -> float:
        """How long the long one waited for its first token."""
        return self.times[-1][0] - self.arrived[-1]

    @property
    def seconds(self) -> float:
        return max(times[-1] for times in self.times)


def main() -> None:
    lesson.part("A long prompt in one step: everybody waits")
    limit = context_limit()
    whole = lesson.llm(enable_chunked_prefill=False, max_model_len=limit).engine
    prompts = the_prompts(whole.tokenizer, whole.config.max_model_len)
    before = everybody_waits(whole, prompts)

    lesson.part("The same prompt in chunks")
    chunked = lesson.llm(enable_chunked_prefill=True, max_num_batched_tokens=CHUNK, max_model_len=limit).engine
    after = in_chunks(chunked, prompts, until=before.seconds)

    lesson.part("Before and after")
    runs = {"one step": [before], "chunks": [after]}
    before_and_after(whole, chunked, prompts, runs)

    lesson.part("How large should a step be?")
    budgets(runs, prompts, limit)

    lesson.part("Pages run out: somebody must leave")
    tight, requests, log = pages_run_out(prompts)

    left = tight.scheduler.num_preemptions > 0
    lesson.part("It comes back, and has lost nothing but time" if left else "Nobody had to leave")
    comes_back(tight, requests, log)
    price(requests, prompts)

    lesson.end(
        """Stop before somebody is preempted: [bold]--break scheduler.preempt[/]. Who must leave is [bold]victim[/],
        who needs the page is [bold]request[/].""",
        """Stop only where a prompt is cut: [bold]--break scheduler.admit --break-when 'count <
        request.num_pending'[/].""",
        "Follow one request's pages: [bold]--break kv.allocate,kv.free --break-when 'request.id == 2'[/].",
        f"Before you run it, say who must leave with WANTS = {OTHER_WANTS}. Then change it in this file.",
    )


def context_limit() -> int | None:
    """None is the model's own. A longer context than 2048 is cut: without chunks, a step must hold all of it."""
    from minillm.hub import resolve_model
    from minillm.model_config import ModelConfig

    longest = ModelConfig.from_folder(resolve_model(lesson.options.model)).max_position_embeddings
    return 2048 if longest > 2048 else None


def the_prompts(tokenizer, context: int) -> list[list[int]]:
    """The running example's three short prompts, and its long talk over and over."""
    from minillm.learn.example import OTHER_ENDING, QUESTION, TALK, conversation, question, running_example

    first = question(tokenizer, lesson.options.prompt or QUESTION)
    talk = conversation(tokenizer, TALK * 12, OTHER_ENDING)
    return [
        first,
        *(running_example(tokenizer)[name] for name in ("another ending", "code")),
        talk[: min(LONG, context - ANSWER)],
    ]


def serve(engine, prompts: list[list[int]]) -> Served:
    """Let three requests write, add the long prompt after a while, and note when each token comes."""
    from minillm import SamplingParams
    from minillm.debug.views.batch_table import batch_table

    served, start, requests = Served(), time.perf_counter(), []

    def add(prompt_ids: list[int], tokens: int) -> None:
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        requests.append(engine.add_request(prompt_ids, params))
        served.arrived.append(time.perf_counter() - start)
        served.times.append([])

    def plan(event: Event) -> None:
        served.seats.note(event)
        if served.mixed is None and len(event.plan.rows) > 3 and event.plan.rows[-1].start > 0:
            served.mixed = batch_table(event.plan, requests, engine.config.max_num_batched_tokens)

    for prompt_ids in prompts[:-1]:
        add(prompt_ids, WRITES)
    with listen("scheduler.plan", plan):
        while engine.has_requests:
            if len(requests) < len(prompts) and len(requests[0].output_ids) == ARRIVES:
                add(prompts[-1], ANSWER)
            engine.step()
            now = time.perf_counter() - start
            for request, times in zip(requests, served.times, strict=True):
                if len(times) < len(request.output_ids):
                    times.append(now)
    served.tokens = [request.output_ids for request in requests]
    return served


def between(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


def tracks(served: Served) -> list[Track]:
    return [Track(i, *facts) for i, facts in enumerate(zip(served.arrived, served.times, strict=True))]


def everybody_waits(engine, prompts: list[list[int]]) -> Served:
    """The run without chunks, in time."""
    served = serve(engine, prompts)
    lesson.say(
        f"""Three requests write: A, B and C. When each has {ARRIVES} tokens, D arrives, with a prompt of
        {len(prompts[-1]):,} tokens. A row is a request, time goes from left to right, as measured here. Where a small
        letter stands, a token came out:"""
    )
    lesson.show(token_timeline(tracks(served), until=1.4 * served.seconds))
    stall, usual = max(served.gaps), median(served.gaps)
    lesson.say(
        f"""One step takes in all of D's prompt, and lasts {amount(stall, "s")}. A, B and C are in that step too, so
        their readers see the text stand still: [warn]{stall / usual:,.0f} times[/] as long as usual."""
    )
    return served


def in_chunks(engine, prompts: list[list[int]], until: float) -> Served:
    """The same with a small token budget: one mixed step, and the run in time."""
    lesson.say(
        f"""A step now has a budget of {CHUNK} tokens (max_num_batched_tokens). Those who write come first and take one
        each; D gets what is left, a chunk, and goes on where it stopped in the next step. One such step:"""
    )
    served = serve(engine, prompts)
    if served.mixed:
        lesson.show(served.mixed)
    chunks = sum(Cell(len(prompts) - 1, "prefill") in seats.values() for seats in served.seats.steps)
    lesson.say(
        f"""The positions say which of a request's tokens are computed, pending is how many are known without keys and
        values, before and after. D samples nothing yet: it has no next token before its prompt's last one is computed.
        That took {chunks} steps, and in each of them A, B and C got a token too. The run in time:"""
    )
    lesson.show(token_timeline(tracks(served), until=1.4 * until))
    return served


def before_and_after(whole, chunked, prompts: list[list[int]], runs: dict[str, list[Served]]) -> None:
    """Both again in turn, kept in ``runs``; A's times between tokens as a plot, and medians of what was measured."""
    from minillm.debug.views.compare import before_after
    from minillm.debug.views.step_times import step_times

    for _ in lesson.each(range(REPEATS), "serving them again"):
        runs["one step"].append(serve(whole, prompts))
        runs["chunks"].append(serve(chunked, prompts))

    def row(name: str, measure: Callable[[Served], float], better: str = "lower") -> tuple:
        return name, *([measure(one) for one in served] for served in runs.values()), "s", better

    lesson.say("The time from each of A's tokens to the next, one after the other:")
    lesson.show(step_times({name: between(served[-1].times[0]) for name, served in runs.items()}, height=8, x="token"))
    lesson.say(f"Both were run {REPEATS + 1} times; the median of each measure:")
    lesson.show(
        before_after(
            [
                row("longest time between tokens of A, B, C", longest),
                row("median time between tokens", lambda served: median(served.gaps), ""),
                row("D waits for its first token", lambda served: served.first_token),
                row("time for all four", lambda served: served.seconds),
            ],
            before="in one step",
            after=f"chunks of {CHUNK}",
        )
    )
    same = all(one.tokens == other.tokens for one, other in zip(*runs.values()))
    lesson.say(
        f"""The same tokens, both times: [good]{same}[/]. Nobody is stalled any more. For D it is a trade: it shares
        its steps with the others, and every chunk looks again at all that was computed before it."""
    )


def middle(served: Sequence[Served], measure: Callable[[Served], float]) -> float:
    return median(measure(one) for one in served)


def longest(served: Served) -> float:
    return max(served.gaps)


def budgets(runs: dict[str, list[Served]], prompts: list[list[int]], limit: int | None) -> None:
    """The same traffic with other token budgets."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table

    lesson.say(
        """The budget is a choice between those who write and those who come. A large step makes the writers wait. A
        small one cuts the prompt into many pieces, and each of them reads all weights of the model again:"""
    )
    others = [lesson.quiet_llm(max_num_batched_tokens=budget, max_model_len=limit).engine for budget in BUDGETS]
    rounds = lesson.each(range(REPEATS), "serving them with each budget")
    again = [[serve(engine, prompts) for engine in others] for _ in rounds]
    measured = {CHUNK: runs["chunks"], **dict(zip(BUDGETS, zip(*again))), 2048: runs["one step"]}
    headings = ("token budget", "longest between tokens", "first token of D", "time for all")
    columns, rows = [Col(heading, "right") for heading in headings], []
    for budget, served in measured.items():
        times = (middle(served, measure) for measure in (longest, lambda one: one.first_token, lambda one: one.seconds))
        rows.append([f"{budget:,}", *(amount(seconds, "s") for seconds in times)])
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))


def few_pages(prompts: list[list[int]]) -> int:
    """So many pages that they run out after some thirty tokens of each request."""
    from minillm.kvcache.pages import pages_for

    return sum(pages_for(len(prompts[i % 3]) + 30, 16) for i in range(len(WANTS)))


def add_writers(engine, prompts: list[list[int]]) -> list:
    """Four requests with short prompts, which grow."""
    from minillm import SamplingParams

    wanted = [SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True) for tokens in WANTS]
    return [engine.add_request(prompts[i % 3], params) for i, params in enumerate(wanted)]


def pages_run_out(prompts: list[list[int]]) -> tuple:
    """Let four requests grow in a small cache until one has to leave: the page map before and after that step."""
    from minillm.debug.views.page_map import page_map

    engine = lesson.llm(page_size=16, num_pages=few_pages(prompts), max_num_seqs=len(WANTS)).engine
    requests, log, seen = add_writers(engine, prompts), SeatLog(), []

    def note(event: Event) -> None:
        victim, other = event.request, event.for_request
        seen.append(
            (letter(victim.id), letter(other.id), victim.num_computed, len(victim.pages), len(victim.output_ids))
        )
        lesson.say(f"In step {event.step} all pages are taken, and {letter(other.id)} needs one more:")
        lesson.show(page_map(engine.pool, engine.scheduler.running))

    lesson.say(
        f"""A request takes pages as it grows, and nobody knows how long it will become. Here are {len(WANTS)} that
        grow in a cache of {engine.pool.num_pages} pages:"""
    )
    with listen("scheduler.plan", log.note), listen("scheduler.preempt", note):
        while not engine.scheduler.num_preemptions and engine.has_requests:
            engine.step()
    for victim, other, computed, pages, written in seen:
        lesson.say(
            f"""[bold]{victim}[/] came last, so {victim} must leave: it is preempted (scheduler.preempt). It loses its
            {pages} pages, and with them the keys and values of {computed} tokens. It keeps the {written} tokens that it
            has written, and waits at the front of the queue. {other} has its page, the others go on:"""
        )
    if engine.scheduler.num_preemptions:
        lesson.show(page_map(engine.pool, engine.scheduler.running))
    else:
        lesson.say(
            f"""All have ended after {engine.scheduler.num_steps} steps, and the pages never ran out: whoever ended gave
            its own back before the others needed more."""
        )
    return engine, requests, log


def comes_back(engine, requests: list, log: SeatLog) -> None:
    """Run to the end: the step that recomputes, the time line of it all, and the same tokens as with enough pages."""
    from minillm.debug.views.batch_table import batch_table

    back, tables = [], []

    def note(event: Event) -> None:
        if event.name == "scheduler.admit" and event.request.num_preemptions:
            back.append(event.request)
        elif event.name == "scheduler.plan" and back and not tables:
            tables.append((event.plan.step, batch_table(event.plan, requests, engine.config.max_num_batched_tokens)))

    with listen("scheduler.plan", log.note), listen(["scheduler.admit", "scheduler.plan"], note):
        while engine.has_requests:
            engine.step()
    for step, drawing in tables:
        lesson.say(
            f"""In step {step} there are pages again. {letter(back[0].id)} comes in like a new request, whose prompt is
            all that it had: its own prompt and what it had written. One step computes the keys and values anew:"""
        )
        lesson.show(drawing)
    again = " A second capital is a request that came back:" if engine.scheduler.num_preemptions else ""
    lesson.say(f"The whole run.{again}")
    lesson.show(seat_timeline(log))


def price(requests: list, prompts: list[list[int]]) -> None:
    """The same four with few pages and with enough: what preemption cost, and that it changed no token."""
    from minillm.debug.views.compare import before_after

    few, enough = few_pages(prompts), 4 * few_pages(prompts)
    engines = [lesson.quiet_llm(page_size=16, num_pages=pages).engine for pages in (few, enough)]
    runs = [grow(engine, prompts) for engine in lesson.each(engines * 3, "growing with each cache")]
    scarce, plenty, seconds = runs[0], runs[1], [run["seconds"] for run in runs]
    lesson.show(
        before_after(
            [
                ("preemptions", scarce["preemptions"], plenty["preemptions"]),
                ("steps for all", scarce["steps"], plenty["steps"], "", "lower"),
                ("tokens computed", scarce["computed"], plenty["computed"], "", "lower"),
                ("time for all, median of 3", seconds[::2], seconds[1::2], "s", "lower"),
            ],
            before=f"{few} pages",
            after=f"{enough} pages",
        )
    )
    same = [request.output_ids for request in requests] == scarce["tokens"] == plenty["tokens"]
    compared = "with preemption and without" if scarce["preemptions"] else "with few pages and with enough, both times"
    lesson.say(
        f"""The same tokens, {compared}: [good]{same}[/]. So an engine need not keep memory for the
        worst case: it admits as many as fit now, and takes a step back when it was too hopeful."""
    )


def grow(engine, prompts: list[list[int]]) -> dict:
    """Let the four run to their ends, and count."""
    requests, computed, before = add_writers(engine, prompts), [], engine.scheduler.num_preemptions
    start = time.perf_counter()
    with listen("scheduler.plan", lambda event: computed.append(event.plan.num_tokens)):
        while engine.has_requests:
            engine.step()
    return {
        "preemptions": engine.scheduler.num_preemptions - before,
        "steps": len(computed),
        "computed": sum(computed),
        "seconds": time.perf_counter() - start,
        "tokens": [request.output_ids for request in requests],
    }


if __name__ == "__main__":
    lesson.run(main)
