"""Lesson 04: continuous batching.

Turned on: ``batching="continuous"``. A static batch is put together once, and everybody in it waits for its slowest. A
continuous one is chosen anew at every step: whoever is done leaves, and whoever waits takes the seat in the next step.
The model computes the same tokens in both; what changes is how much of each step is used.
"""

from collections.abc import Callable
from statistics import mean, median

from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=4,
    title="Continuous batching",
    turns_on="batching='continuous' (before: 'static')",
    buys="fewer idle seats, so more tokens a second and shorter waits",
    breaks="scheduler.admit,scheduler.wait",
)

from minillm.debug.views.compare import before_after
from minillm.debug.views.table import Col, drawn, numbers
from minillm.debug.views.theme import letter, tag
from minillm.debug.views.timeline import seat_timeline
from minillm.kvcache.pages import pages_for
from minillm.learn.asking import ask
from minillm.learn.example import CODE, OTHER_ENDING, QUESTION, TALK, conversation, question
from minillm.learn.lessons.lesson_04.arrivals import Job, Served, serve
from minillm.probe import listen

SEATS = 4
OTHER_SEATS = 4 if SEATS == 12 else 12  # to try
# Before which step each request arrives, and how many tokens it wants.
TRAFFIC = ((0, 22), (0, 5), (0, 10), (1, 3), (2, 18), (3, 6), (5, 4), (7, 14), (9, 11), (10, 7), (12, 6), (14, 5))


def main() -> None:
    lesson.part(f"Twelve requests, {SEATS} seats")
    static = lesson.llm(batching="static", max_num_seqs=SEATS).engine
    jobs = traffic(static.tokenizer)
    lesson.say(f"""Step after step, the engine computes the next token of every request that runs. Who runs has a seat,
        a row in the batch; here there are {SEATS} (max_num_seqs). These requests come, some of them while others
        run:""")
    show_traffic(jobs)

    lesson.part("Static: the batch leaves together")
    before = serve(static, jobs)
    lesson.show(seat_timeline(before.seats))
    static_in_words(before, jobs)

    lesson.part("Continuous: a seat is taken again at once")
    continuous = lesson.llm(batching="continuous", max_num_seqs=SEATS).engine
    after = serve(continuous, jobs)
    lesson.say("The same twelve, to the same scale:")
    lesson.show(seat_timeline(after.seats, total=len(before.seats.steps)))
    lesson.say(f"""While somebody waited, a seat was idle {after.seats.idle_while_waiting} times here and
        {before.seats.idle_while_waiting} times above. What idles at the end is what nobody wants any more.""")

    lesson.part("One step's decision")
    one_decision(before, after)

    lesson.part("What can keep a request out")
    kept_out(static.tokenizer, jobs[0].prompt_ids)

    lesson.part("Before and after")
    before_and_after(static, continuous, jobs)

    lesson.end(
        """Stop at every admission: [bold]--break scheduler.admit[/]. Look at [bold]request[/],
        [bold]self.running[/] and [bold]self.waiting[/].""",
        "Only when the third request comes in: [bold]--break scheduler.admit --break-when 'request.id == 2'[/].",
        f"Before you run it, say what SEATS = {OTHER_SEATS} does to both time lines. Then change it in this file.",
        "One prompt of 1,500 tokens would make everybody wait again. Lesson 05 cuts it into chunks.",
    )


def traffic(tokenizer) -> list[Job]:
    """Twelve jobs made of the running example's short prompts."""
    texts = [lesson.options.prompt or QUESTION, OTHER_ENDING, *(asked for asked, _ in TALK)]
    prompts = [*(question(tokenizer, text) for text in texts), tokenizer.encode(CODE)]
    return [Job(step, prompts[i % len(prompts)], tokens) for i, (step, tokens) in enumerate(TRAFFIC)]


def show_traffic(jobs: list[Job]) -> None:
    """Who comes when, and wants how much."""
    rows = [[tag(id), str(job.step + 1), str(len(job.prompt_ids)), str(job.tokens)] for id, job in enumerate(jobs)]
    lesson.show(drawn([Col("request"), *numbers("arrives before step", "prompt tokens", "wants tokens")], rows))


def static_in_words(served: Served, jobs: list[Job]) -> None:
    """What the picture shows: who came too late, and how much was idle."""
    log = served.seats
    late = next((i for i, job in enumerate(jobs) if job.step > 0), 0)
    lesson.say(f"""A row is a seat, a column a step, and the last row counts who waits. The first batch was put together
        when {letter(late)} was not there yet: it came before step {jobs[late].step + 1}, and got its first token
        {served.wait_steps[late]} steps after that. Whoever is done leaves an idle seat behind until the longest request
        of the batch is done too. {log.idle} of {log.seat_steps} seats in these steps were idle,
        [warn]{log.idle / log.seat_steps:.0%}[/].""")


def one_decision(before: Served, after: Served) -> None:
    """The first step in which one is admitted and another is not, and what the static engine did in it."""
    step = after.first_choice
    if not any(after.admitted.values()):
        lesson.say("Nobody was seen coming in: the probe scheduler.admit tells of it, and it is missing.")
        return
    if step is None:
        lesson.say(f"""With {SEATS} seats the continuous engine never has to choose: whoever waits comes in at the next
            step, since a seat, tokens of the budget and pages are there for all. Fewer seats make it choose.""")
        return
    lesson.say(f"""Step {step}: at every step the scheduler looks at the first in the queue, lets it in if it can, and
        goes on to the next; the first who cannot come in ends it. First come, first served. What each engine's
        scheduler says of those who wait in its queue:""")
    for name, served in (("static", before), ("continuous", after)):
        lesson.console.print(f"  [title]{name}[/]")
        for id, words in served.words.get(step, {}).items():
            lesson.console.print("    ", tag(id), " ", words, sep="", highlight=False)
        lesson.console.print("" if served.words.get(step) else "    nobody waits\n")


def kept_out(tokenizer, prompt_ids: list[int]) -> None:
    """Too few tokens left in the step, then too few pages: each made to happen, with what scheduler.wait says."""
    talk = conversation(tokenizer, TALK, QUESTION)
    budget, pages = 2 * len(prompt_ids), pages_for(len(talk), 16) + 4
    lesson.say("""A free seat is not all that a request needs. A step computes so many tokens and no more: its token
        budget (max_num_batched_tokens), of which a prompt takes as many as it is long. And tokens need pages. Where a
        seat is free and one of these is short, the probe scheduler.wait says which. Made to happen:""")
    for title, prompts, settings in (
        ("three questions at once", [prompt_ids] * 3, {"max_num_batched_tokens": budget}),
        ("a long talk, a question, a long talk", [talk, prompt_ids, talk], {"num_pages": pages}),
    ):
        setting = ", ".join(f"{name}={value}" for name, value in settings.items())
        lesson.console.print(f"  [title]{title}[/] ({', '.join(str(len(p)) for p in prompts)} tokens), {setting}")
        lesson.console.print("    ", *hold_back(prompts, settings), sep="", highlight=False)
        lesson.console.print()


def hold_back(prompts: list[list[int]], settings: dict) -> list:
    """Who had to wait in the first step, and why."""
    engine, heard = lesson.quiet_llm(max_num_seqs=SEATS, **settings).engine, []
    for prompt_ids in prompts:
        ask(engine, prompt_ids, 1)
    with listen("scheduler.wait", lambda event: heard.extend([tag(event.request.id), " ", event.why])):
        engine.step()
    return heard


def before_and_after(static, continuous, jobs: list[Job]) -> None:
    """Both engines again, three times in turn, and the median of each thing measured."""
    runs = [(serve(static, jobs), serve(continuous, jobs)) for _ in lesson.each(range(3), "serving them again")]
    wanted = sum(job.tokens for job in jobs)

    def row(name: str, measure: Callable[[Served], float], unit: str, better: str) -> tuple:
        return name, *([measure(run[i]) for run in runs] for i in (0, 1)), unit, better

    lesson.say("""The same again three times in turn, now timed; the median of each. What differs no more than between
        rounds of the same is noise:""")
    lesson.show(
        before_after(
            [
                row("steps for all", lambda run: len(run.seats.steps), "", "lower"),
                row("seats in use", lambda run: 100 - 100 * run.seats.idle / run.seats.seat_steps, "%", "higher"),
                row("wait for the first token, mean", lambda run: mean(run.waits), "s", "lower"),
                row("the longest such wait", lambda run: max(run.waits), "s", "lower"),
                row("the same in steps", lambda run: max(run.wait_steps), "", "lower"),
                row("time of a step, median", lambda run: median(run.step_times), "s", ""),
                row("time for all", lambda run: run.seconds, "s", "lower"),
                row("tokens/s", lambda run: wanted / run.seconds, "", "higher"),
            ],
            before="static",
            after="continuous",
        )
    )
    same = all(one.tokens == other.tokens for one, other in runs)
    lesson.say(f"""The same tokens, both times: [good]{same}[/]. A step reads all of the model's weights, for one seat
        or for all; the more seats are in use, the more tokens come of it.""")


if __name__ == "__main__":
    lesson.run(main)
