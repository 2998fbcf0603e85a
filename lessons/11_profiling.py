"""Lesson 11: profiling.

Turned on: a profiler. It writes down what every kernel did and when, with the names of our steps and layers around it.
The lesson records steps of one request and of sixteen, reads the recordings, and answers two questions: where did the
time go, and is it memory or arithmetic that takes it?
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from rich.text import Text

from minillm.debug.views.units import amount, number, percent
from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=11,
    title="Profiling",
    turns_on="a profiler (--profile FILE, or recording(engine, FILE) in Python)",
    buys="knowing where the time of a step goes, and what limits it",
    breaks="profile.phase,profile.result",
)
TOKENS = 16  # that each request writes while it is recorded
MANY = 16  # requests in the larger batch
PAGES = 1024  # enough for them all, and little beside the model
ROWS = 1, 8, 64, 256  # tokens that a matrix is multiplied with
FAR = 0.05  # a share of a limit below which something else is in the way
NSYS = """\
nsys profile -t cuda,nvtx -o run \\
    python -m minillm generate 'What is a KV cache?' --profile nvtx
nsys stats -r nvtx_sum,cuda_gpu_kern_sum run.nsys-rep
nsys-ui run.nsys-rep"""
KEPT = Path(tempfile.gettempdir()) / "minillm-lesson11.json"  # where the last trace stays


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
    on_a_gpu(prompts)

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
    from minillm.learn.example import QUESTION, question, running_example

    known = list(running_example(tokenizer).values())
    prompts = [known[i % len(known)] for i in range(MANY)]
    return [question(tokenizer, lesson.options.prompt or QUESTION), *prompts[1:]]


def serve(engine, prompts: list[list[int]]) -> list[float]:
    """Answer them all, in one batch; the seconds of each decode step."""
    from minillm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    for prompt in prompts:
        engine.add_request(prompt, params)
    seconds = []
    while engine.has_requests:
        start = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def record(engine, prompts: list[list[int]], path: Path) -> tuple:
    """Serve them twice, the second time recorded: the first time of anything is slow."""
    from minillm.debug.profiler import recording

    serve(engine, prompts)
    with recording(engine, path) as made:
        serve(engine, prompts)
    return made.profile(), made.path


def one_step(profile, path: Path) -> None:
    """A decode step out of the middle, as the trace has it."""
    from minillm.debug.spans import read_trace, spans_of
    from minillm.debug.views.trace_lanes import trace_lanes

    steps = [span for span in profile.ranges if span.name.startswith("step ")]
    step = steps[len(steps) // 2]
    lesson.say(
        f"""A profiler notes each operator and each kernel: its name, when it began, when it ended. A kernel is a
        function that does the work on the numbers: one matrix product, one norm. While it records, the engine adds
        names of its own: [bold]step[/], [bold]launch[/], [bold]forward[/], [bold]layer 3[/]. {len(steps)} steps of one
        request were recorded. Here is {step.name}. Time goes from left to right; below each range lies what happened
        in it; in the last line each letter is a kernel at work, and a blank is time in which none was:"""
    )
    lesson.show(trace_lanes(spans_of(read_trace(path)), step.start, step.end))


def by_kinds(profile) -> None:
    """The table of decode steps."""
    from minillm.debug.views.profile_table import WAITS, by_kind

    phase = profile.phases()["decode"]
    matrix = next(row for row in phase.kinds if row.kind == "matrix")
    where = "GPU" if profile.on_gpu else "CPU"
    lesson.say(
        f"""The mean of {len(phase.steps)} decode steps. [bold]us[/] is microseconds. [bold]bytes[/] is what the kernels
        have to move at the least: all weights once, each token's keys and values once. Divided by the time it gives
        GB/s. [bold]of copy[/] compares that with how fast this {where} copies a large tensor, which was measured just
        now: {profile.limit:,.0f} GB/s."""
    )
    lesson.show(by_kind(profile, phase))
    lesson.say(
        f"""The matrices take {percent(matrix.microseconds, phase.wall)} of the step, and move
        {amount(matrix.bytes, "B")}: nearly all of it is weights, for one single token. "{WAITS[profile.on_gpu]}" takes
        {percent(phase.idle, phase.wall)}: there no kernel works, and a faster kernel would change nothing about it."""
    )
    if not profile.on_gpu:
        lesson.say(
            """This is a small model on a CPU. Its weights may fit into the processor's cache, and then they are read
            faster than any copy through memory. And Python works on the same processor as the kernels: what stands
            between two of them is the interpreter. On a GPU the two work beside each other, and the same line says how
            long the GPU had nothing to do."""
        )


def by_layers(profile) -> None:
    """The table by layer."""
    from minillm.debug.views.profile_table import by_layer

    phase = profile.phases()["decode"]
    layers = {key: sum(times.values()) for key, times in phase.layers.items() if isinstance(key, int)}
    head = sum(phase.layers.get("head", {}).values())
    lesson.say("The same kernels again, put together by the layer that they belong to:")
    lesson.show(by_layer(phase))
    usual = median(layers.values())
    of_head = f"{number(round(head / usual, 1))} times a layer" if head else "in a CUDA graph it is part of the rest"
    lesson.say(
        f"""All layers have the same shapes, so they should take about the same time; the median is
        {number(round(usual, 1))} us. One that stands out is worth a look. The [bold]head[/] is the last matrix, which
        makes a score for each token of the vocabulary: {of_head}."""
    )


def four_steps(alone, together) -> None:
    """Prefill and decode, one request and many, beside each other."""
    from minillm.debug.kernel_kinds import ALL_KINDS
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.profile_table import WAITS
    from minillm.debug.views.table import Col, table

    phases = [profile.phases()["prefill"] for profile in (alone, together)]
    phases += [profile.phase(undisturbed(profile)) for profile in (alone, together)]
    columns = [Col(""), *(Col(title, "right", wraps=True) for title in ("prompt, 1", f"prompts, {MANY}"))]
    columns += [Col(title, "right", wraps=True) for title in ("decode, 1", f"decode, {MANY}")]
    kinds = [{row.kind: row for row in phase.kinds} for phase in phases]
    rows: list[list] = [["tokens in the step", *(number(round(phase.tokens, 1)) for phase in phases)]]
    rows.append(["time of the step", *(amount(phase.wall / 1e6, "s") for phase in phases)])
    rows.append(["time for a token", *(amount(phase.wall / phase.tokens / 1e6, "s") for phase in phases)])
    for kind in ALL_KINDS:
        if any(kind in one for one in kinds):
            shares = zip(kinds, phases)
            cells = [percent(one[kind].microseconds, phase.wall) if kind in one else "" for one, phase in shares]
            rows.append([kind, *cells])
    rows.append([WAITS[alone.on_gpu], *(percent(phase.idle, phase.wall) for phase in phases)])
    matrices = [one["matrix"] for one in kinds]
    rows.append(["matrices, GB/s", *(f"{row.gb_per_s:,.1f}" for row in matrices)])
    rows.append(["matrices, GFLOP/s", *(f"{row.flops / row.microseconds / 1e3:,.1f}" for row in matrices)])
    lesson.say(
        f"""The same for {MANY} requests: one step computes all their prompts, then each step computes one token for
        each of them. Of the decode steps the faster half counts: on a computer that does other things too, something
        may come between. Percentages are of a step's time. GFLOP/s counts multiplications and additions, in billions a
        second:"""
    )
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))
    one, many = phases[2], phases[3]
    lesson.say(
        f"""Compare the two right columns. {MANY} requests share a step, which makes {MANY} tokens, and it takes
        {number(round(many.wall / one.wall, 1))} times as long as a step of one. A token costs
        {amount(many.wall / many.tokens / 1e6, "s")} in it, and {amount(one.wall / one.tokens / 1e6, "s")} alone. The
        weights are read once for all {MANY}, and Python goes through the layers once for all of them: that is what
        batching buys."""
    )


def undisturbed(profile) -> list[int]:
    """The faster half of the decode steps."""
    lengths = {n: end - start for n, (start, end) in profile.windows.items() if profile.facts[n].is_decode}
    order = sorted(lengths, key=lambda n: (lengths[n], n))
    return sorted(order[: (len(order) + 1) // 2])


def memory_or_arithmetic(engine, profile) -> None:
    """The model's own matrices times 1, 8, 64 and 256 rows, against what the device can do."""
    from minillm.debug.device_speed import matrix_speed
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.roofline import Point, roofline
    from minillm.debug.views.table import Col, table

    peak = matrix_speed(engine.device, engine.dtype)
    measured = [(rows, *multiply(engine, rows)) for rows in lesson.each(ROWS, "multiplying")]
    titles = "tokens", "FLOP a byte", "time", "GB/s", "of copy", "GFLOP/s", "of peak", "nearer to"
    columns, cells, points = [Col(title, "right") for title in titles], [], []
    for rows, seconds, moved, flops in measured:
        speed, work = moved / seconds / 1e9, flops / seconds / 1e9
        nearer = "memory's limit" if speed / profile.limit > work / peak else "arithmetic's"
        if max(speed / profile.limit, work / peak) < FAR:
            nearer = "neither"
        shares = [f"{speed:,.1f}", percent(speed, profile.limit), f"{work:,.1f}", percent(work, peak)]
        cells.append([number(rows), number(round(flops / moved, 1)), amount(seconds, "s"), *shares, nearer])
        points.append(Point(f"{rows} token{'s' * (rows > 1)}", flops / moved, work))
    ridge = peak / profile.limit
    lesson.say(
        f"""Is a matrix product slow because bytes come late, or because there is much to multiply? All matrices of the
        model's layers, one after the other, times an x of 1, 8, 64 and 256 rows, a row a token. The weights are the
        same bytes each time; the operations grow with the rows. This device copies {profile.limit:,.0f} GB/s, and
        multiplies large matrices with {peak:,.0f} GFLOP/s. So it can do {number(round(ridge, 1))} operations in the
        time in which one byte comes. What does fewer waits for memory, what does more waits for arithmetic:"""
    )
    lesson.show(Drawing(lambda canvas: table(canvas, columns, cells)))
    lesson.say(
        """As a picture, a roofline: how many operations are done with each byte, to the right; how fast it went,
        upward. Both axes grow by factors. The roof is what this device can do: slanting, memory's limit; flat,
        arithmetic's:"""
    )
    lesson.show(roofline(points, profile.limit, peak))
    once, most = measured[0], measured[-1]
    lesson.say(
        f"""{most[0]} rows took {number(round(most[1] / once[1], 1))} times as long as one row, for {most[0]} times the
        work. A point above the roof is weights that came from the processor's cache. Decode stands on the left: to be
        faster it needs fewer bytes (lessons 13 to 16) or more tokens for each read (a larger batch, lesson 12). A
        prompt stands on the right: it needs a faster processor, or less to compute (lesson 06)."""
    )
    if "neither" in cells[0]:
        lesson.say(
            """Where it says neither, the matrices are so small that this device waits for the next launch (lesson 09),
            and not for memory or arithmetic. A larger model comes nearer to the roof."""
        )


def multiply(engine, rows: int) -> tuple[float, int, int]:
    """All layers' matrices times ``rows`` tokens: seconds (the best of some), bytes moved, operations."""
    import torch

    from minillm.debug.device_speed import wait_for
    from minillm.layers.linear import LinearBase

    matrices = [module for module in engine.model.modules() if isinstance(module, LinearBase)]
    size, best = engine.dtype.itemsize, float("inf")
    widths = {matrix.in_features for matrix in matrices}
    inputs = {K: torch.ones(rows, K, dtype=engine.dtype, device=engine.device) for K in widths}
    with torch.inference_mode():
        for _ in range(4):
            wait_for(engine.device)
            start = time.perf_counter()
            for matrix in matrices:
                matrix(inputs[matrix.in_features], None)  # of no batch: only adapters would look
            wait_for(engine.device)
            best = min(best, time.perf_counter() - start)
    moved = sum(m.bytes_read + rows * (m.in_features + m.out_features) * size for m in matrices)
    return best, moved, sum(2 * rows * m.in_features * m.out_features for m in matrices)


def in_a_file(path: Path) -> Path:
    """Keep the trace where the reader finds it, and say what is in it."""
    from minillm.debug.spans import read_trace

    kept = KEPT
    events = read_trace(path)["traceEvents"]
    try:
        with replacing(kept) as new:
            shutil.copy(path, new)
    except OSError:  # somebody else's
        kept = Path(tempfile.mkdtemp()) / KEPT.name
        shutil.copy(path, kept)
    example = next(event for event in events if event.get("name", "").startswith("layer 3"))
    facts = {key: example[key] for key in ("name", "cat", "ph", "ts", "dur") if key in example}
    lesson.say(
        f"""The recording of {MANY} requests is in [bold]{kept}[/], {amount(kept.stat().st_size, "B")} with
        {len(events):,} events. It is a Chrome trace: JSON, an object an event. One of them:"""
    )
    lesson.say(f"[note]{str(facts).replace('[', '(')}[/]")
    lesson.say(
        """[bold]ts[/] is when it began and [bold]dur[/] how long it took, both in microseconds; [bold]ph[/] X means a
        span of time. To see it, open the page ui.perfetto.dev and drop the file on it (it is read in your browser and
        sent nowhere), or open chrome://tracing in Chrome. Keys: W and S zoom, A and D move, a click on a range says its
        name and time. You see what the first part of this lesson drew, all steps of it."""
    )
    return kept


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside ``path`` that takes its place whole: another run may be doing the same."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def cost(engine, prompts: list[list[int]]) -> None:
    """Decode steps with a profiler and without, in turn."""
    from minillm.debug.profiler import recording
    from minillm.debug.views.compare import before_after

    plain, recorded = [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in lesson.each(range(3), "recording and not"):
            plain.append(median(serve(engine, prompts)))
            with recording(engine, Path(folder) / f"{turn}.json"):
                recorded.append(median(serve(engine, prompts)))
    lesson.say(
        """Who measures disturbs. Each operator and each range that is noted takes a little time, and a small model has
        many of them for little work. The median decode step of one request:"""
    )
    lesson.show(before_after([("a decode step", plain, recorded, "s", "")], before="alone", after="recorded"))
    lesson.say(
        """So a profile says where time goes, and a stop-watch says how much there is of it. Nothing of the profiler is
        in the engine while nobody records: the names are put round its methods at the beginning of a recording, and
        taken away at its end."""
    )


def on_a_gpu(prompts: list[list[int]]) -> None:
    """NVIDIA's profiler, which knows our names; where there is a GPU, graphs and no graphs."""
    import torch

    there = torch.cuda.is_available()
    lesson.say(
        f"""This needs an NVIDIA GPU; torch sees {"one" if there else "none"} here. The same names go to NVIDIA's own
        profiler, Nsight Systems (nsys), as NVTX ranges. Only one profiler may record a GPU at a time, so ours is asked
        for the names alone, with [bold]--profile nvtx[/]:"""
    )
    lesson.show(Text(NSYS, "title"))
    lesson.say(
        """The first records, the second prints sums by range and by kernel, the third shows the lanes. A CUDA graph
        (lesson 09) starts all kernels of a step by one call: between them no Python runs, so there are no ranges of
        ours inside. Our tables find the layers of a graph in another way: the names of a step's kernels, in their
        order, repeat once for each layer."""
    )
    if there:
        graphs_and_not(prompts)


def graphs_and_not(prompts: list[list[int]]) -> None:
    """A decode step of one request with CUDA graphs and without: how long the GPU has nothing to do."""
    from minillm.debug.views.compare import before_after

    phases = []
    with tempfile.TemporaryDirectory() as folder:
        for eager in (True, False):
            engine = lesson.quiet_llm(prefix_cache="none", num_pages=PAGES, enforce_eager=eager).engine
            profile, _ = record(engine, prompts[:1], Path(folder) / f"{eager}.json")
            phases.append(profile.phases()["decode"])
            del engine
    eager, graphs = phases
    rows = [
        ("a decode step", eager.wall / 1e6, graphs.wall / 1e6, "s", "lower"),
        ("kernels run", eager.busy / 1e6, graphs.busy / 1e6, "s", "lower"),
        ("GPU idle", eager.idle / 1e6, graphs.idle / 1e6, "s", "lower"),
    ]
    lesson.say("A decode step of one request, launched kernel by kernel and as a graph:")
    lesson.show(before_after(rows, before="enforce_eager", after="CUDA graphs"))


if __name__ == "__main__":
    lesson.run(main)
