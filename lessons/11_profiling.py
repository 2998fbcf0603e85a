"""Lesson 11: profiling.

Turned on: a profiler. It writes down what every kernel did and when, with the names of our steps and layers around it.
The lesson records steps of one request and of sixteen, reads the recordings, and answers two questions: where did the
time go, and is it memory or arithmetic that takes it?
"""

import tempfile
from pathlib import Path
from statistics import median

from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=11,
    title="Profiling",
    turns_on="a profiler (--profile FILE, or recording(engine, FILE) in Python)",
    buys="knowing where the time of a step goes, and what limits it",
    breaks="profile.phase,profile.result",
)

from minillm.debug.spans import read_trace, spans_of
from minillm.debug.views.compare import before_after
from minillm.debug.views.profile_table import WAITS, by_kind, by_layer
from minillm.debug.views.trace_lanes import trace_lanes
from minillm.debug.views.units import amount, number, percent
from minillm.learn.example import QUESTION, question, running_example
from minillm.learn.lessons.lesson_11.matrices import as_roofline, in_a_table, limits_of, multiply, unrest
from minillm.learn.lessons.lesson_11.on_a_gpu import on_a_gpu
from minillm.learn.lessons.lesson_11.recorded import keep, record, undisturbed, with_and_without
from minillm.learn.lessons.lesson_11.side_by_side import side_by_side

MANY = 16  # requests in the larger batch
PAGES = 1024  # enough for them all, and little beside the model
ROWS = 1, 8, 64, 256  # tokens that a matrix is multiplied with


def main() -> None:
    lesson.part("A step, recorded")
    engine = lesson.llm(prefix_cache="none", num_pages=PAGES).engine
    prompts = the_prompts(engine.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        alone, path = record(engine, prompts[:1], Path(folder) / "one.json")
        one_step(alone, path)

        lesson.part("By kind of kernel: one request, one token a step")
        by_kinds(alone)

        lesson.part("By layer")
        by_layers(alone)

        lesson.part(f"Four kinds of step: prompt or decode, 1 request or {MANY}")
        together, path = record(engine, prompts, Path(folder) / "many.json")
        four_steps(alone, together)

        lesson.part("Memory or arithmetic?")
        memory_or_arithmetic(engine, alone)

        lesson.part("The trace, in a file")
        kept = in_a_file(path)

    lesson.part("What recording costs")
    cost(engine, prompts[:1])

    lesson.part("On a GPU")
    on_a_gpu(lesson, prompts[:1], PAGES)

    lesson.end(
        """Stop where a mean step is worked out: [bold]--break profile.result --break-when 'steps[0].is_decode'[/].
        [bold]kinds[/] has a row for each kind of kernel.""",
        "Stop before idle time is counted: [bold]--break profile.phase[/], and look at [bold]by_step[/].",
        "Profile a run of your own: [bold]python -m minillm generate 'What is a KV cache?' --profile my_trace.json[/].",
        f"Open {kept} in https://ui.perfetto.dev: find the slowest layer, and what is slow in it.",
        "Before you run it, say which columns of the fourth part change with MANY = 4. Then change it in this file.",
    )


def the_prompts(tokenizer) -> list[list[int]]:
    """The running example, over and over; the first is the reader's own question, if there is one."""
    known = list(running_example(tokenizer).values())
    return [question(tokenizer, lesson.options.prompt or QUESTION), *(known[i % len(known)] for i in range(1, MANY))]


def one_step(profile, path: Path) -> None:
    """A decode step out of the middle, as the trace has it."""
    steps = [span for span in profile.ranges if span.name.startswith("step ")]
    step = steps[len(steps) // 2]
    lesson.say(f"""A profiler notes each operator and each kernel: its name, when it began, when it ended. A kernel is a
        function that does the work on the numbers: one matrix product, one norm. While it records, the engine adds
        names of its own: [bold]step[/], [bold]launch[/], [bold]forward[/], [bold]layer 3[/]. {len(steps)} steps of one
        request were recorded. Here is {step.name}. Time goes from left to right; below each range lies what happened in
        it; in the last line each letter is a kernel at work, and a blank is time in which none was:""")
    lesson.show(trace_lanes(spans_of(read_trace(path)), step.start, step.end))


def by_kinds(profile) -> None:
    """The table of decode steps."""
    phase = profile.phases()["decode"]
    matrix = next(row for row in phase.kinds if row.kind == "matrix")
    where = "GPU" if profile.on_gpu else "CPU"
    lesson.say(f"""The mean of all {len(phase.steps)} decode steps, so not just the one above. [bold]us[/] is
        microseconds. [bold]bytes[/] is what the kernels have to move at the least: all weights once, each token's keys
        and values once. Divided by the time it gives GB/s. [bold]of copy[/] compares that with how fast this {where}
        copies a large tensor, which was measured just now: {profile.limit:,.0f} GB/s.""")
    lesson.show(by_kind(profile, phase))
    lesson.say(f"""The matrices take {percent(matrix.microseconds, phase.wall)} of the step, and move
        {amount(matrix.bytes, "B")}: nearly all of it is weights, for one single token. "{WAITS[profile.on_gpu]}" takes
        {percent(phase.idle, phase.wall)}: there no kernel works, and a faster kernel would change nothing about it.""")
    if not profile.on_gpu:
        lesson.say("""This is a small model on a CPU. Its weights may fit into the processor's cache, and then they are
            read faster than any copy through memory. And Python works on the same processor as the kernels: what stands
            between two of them is the interpreter. On a GPU the two work beside each other, and the same line says how
            long the GPU had nothing to do.""")


def by_layers(profile) -> None:
    """The table by layer."""
    phase = profile.phases()["decode"]
    layers = {key: sum(times.values()) for key, times in phase.layers.items() if isinstance(key, int)}
    head = sum(phase.layers.get("head", {}).values())
    lesson.say("The same kernels again, put together by the layer that they belong to:")
    lesson.show(by_layer(phase))
    usual = median(layers.values())
    of_head = f"{number(round(head / usual, 1))} times a layer" if head else "in a CUDA graph it is part of the rest"
    lesson.say(f"""All layers have the same shapes, so they should take about the same time; the median is
        {number(round(usual, 1))} us. One that stands out is worth a look. The [bold]head[/] is the last matrix, which
        makes a score for each token of the vocabulary: {of_head}.""")


def four_steps(alone, together) -> None:
    """Prefill and decode, one request and many, beside each other."""
    phases = {
        "prompt, 1": alone.phases()["prefill"],
        f"prompts, {MANY}": together.phases()["prefill"],
        "decode, 1": undisturbed(alone),
        f"decode, {MANY}": undisturbed(together),
    }
    lesson.say(f"""The same for {MANY} requests: one step computes all their prompts, then each step computes one token
        for each of them. Of the decode steps the faster half counts: on a computer that does other things too,
        something may come between. Percentages are of a step's time. GFLOP/s counts multiplications and additions, in
        billions a second:""")
    lesson.show(side_by_side(phases, alone.on_gpu))
    _, _, one, many = phases.values()
    lesson.say(f"""Compare the two right columns. {MANY} requests share a step, which makes {MANY} tokens, and it takes
        {number(round(many.wall / one.wall, 1))} times as long as a step of one. A token costs
        {amount(many.wall / many.tokens / 1e6, "s")} in it, and {amount(one.wall / one.tokens / 1e6, "s")} alone. The
        weights are read once for all {MANY}, and Python goes through the layers once for all of them: that is what
        batching buys.""")


def memory_or_arithmetic(engine, profile) -> None:
    """The model's own matrices times 1, 8, 64 and 256 rows, against what the device can do."""
    measured = multiply(engine, ROWS, lesson.each(range(4), "multiplying"))
    limits = limits_of(engine, profile.limit, measured)
    lesson.say(f"""Is a matrix product slow because bytes come late, or because there is much to multiply? All matrices
        of the model's layers, one after the other, times an x of 1, 8, 64 and 256 rows, a row a token; four rounds, the
        rows in turns, and the best of each (the slowest took {unrest(measured):.1f} times as long). The weights are the
        same bytes each time; the operations grow with the rows. This device copies {limits.copy:,.0f} GB/s, and
        multiplies matrices with {limits.peak:,.0f} GFLOP/s at its best. So it can do {number(round(limits.ridge, 1))}
        operations in the time in which one byte comes: the ridge. What does fewer waits for memory, what does more
        waits for arithmetic:""")
    lesson.show(in_a_table(measured, limits))
    verdicts = [one.nearer_to(limits) for one in measured]
    if "the ridge" in verdicts:
        lesson.say("""Where it says the ridge, both limits are about as near. Neither is known exactly, so which of them
            it is would change from run to run.""")
    if cached := [f"{one.rows}" for one in measured if one.above_memory(limits)]:
        lesson.say(f"""More than 100% of copy ({" and ".join(cached)} rows) means that weights came from the processor's
            cache, which is faster than memory. In the picture such a point may lie above the slanting roof.""")
    lesson.say("""As a picture, a roofline: how many operations are done with each byte, to the right; how fast it went,
        upward. Both axes grow by factors. The roof is what this device can do: slanting, memory's limit; flat,
        arithmetic's:""")
    lesson.show(as_roofline(measured, limits))
    once, most = measured[0], measured[-1]
    lesson.say(f"""{most.rows} rows took {number(round(min(most.seconds) / min(once.seconds), 1))} times as long as one
        row, for {most.rows} times the work. Decode stands on the left: to be faster it needs fewer bytes (lessons 13 to
        16) or more tokens for each read (a larger batch, lesson 12). A prompt stands on the right: it needs a faster
        processor, or less to compute (lesson 06).""")
    if verdicts[0] == "neither":
        lesson.say("""Where it says neither, the matrices are so small that this device waits for the next launch
            (lesson 09), and not for memory or arithmetic. A larger model comes nearer to the roof.""")


def in_a_file(path: Path) -> Path:
    """Keep the trace where the reader finds it, and say what is in it."""
    kept, events = keep(path), read_trace(path)["traceEvents"]
    example = next(event for event in events if event.get("name", "").startswith("layer 3"))
    facts = {key: example[key] for key in ("name", "cat", "ph", "ts", "dur") if key in example}
    lesson.say(f"""The recording of {MANY} requests is in [bold]{kept}[/], {amount(kept.stat().st_size, "B")} with
        {len(events):,} events. It is a Chrome trace: JSON, an object an event. One of them:""")
    lesson.say(f"[note]{str(facts).replace('[', '(')}[/]")
    lesson.say("""[bold]ts[/] is when it began and [bold]dur[/] how long it took, both in microseconds; [bold]ph[/] X
        means a span of time. To see it, open the page ui.perfetto.dev and drop the file on it (it is read in your
        browser and sent nowhere), or open chrome://tracing in Chrome. Keys: W and S zoom, A and D move, a click on a
        range says its name and time. You see what the first part of this lesson drew, all steps of it.""")
    return kept


def cost(engine, prompts: list[list[int]]) -> None:
    """Decode steps with a profiler and without, in turn."""
    plain, recorded = with_and_without(engine, prompts, lesson.each(range(3), "recording and not"))
    lesson.say("""Who measures disturbs. Each operator and each range that is noted takes a little time, and a small
        model has many of them for little work. The median decode step of one request:""")
    lesson.show(before_after([("a decode step", plain, recorded, "s", "")], before="alone", after="recorded"))
    lesson.say("""So a profile says where time goes, and a stop-watch says how much there is of it. Nothing of the
        profiler is in the engine while nobody records: the names are put round its methods at the beginning of a
        recording, and taken away at its end.""")


if __name__ == "__main__":
    lesson.run(main)
