"""Lesson 09: CUDA graphs.

Turned on: ``enforce_eager=False``. A decode step is some hundred small operators, and Python launches them one by one,
the same ones in the same order, step after step. So one step is recorded, and from then on replayed: one call, and no
Python. The price is that nothing may move: the step's numbers lie in buffers that stay where they are, and a step is
recorded for a few batch sizes only.

On a GPU the recording is a CUDA graph, and this is worth a lot. On a CPU it is a tape, which saves little, and has the
same rules: so all of them can be seen here.
"""

import re
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from statistics import median

import torch

from minillm.debug.views.units import amount
from minillm.learn.lesson import Lesson
from minillm.probe import Event, listen

lesson = Lesson(
    number=9,
    title="CUDA graphs",
    turns_on="enforce_eager=False (before: True)",
    buys="decode steps that do not wait for Python to launch them",
    breaks="graph.record,graph.replay",
)
SEATS = 8
OTHER_SEATS = 8 if SEATS == 6 else 6  # to try
LIMIT, PAGES = 512, 256  # context in tokens, and what there is of cache
WANTS = (36, 26, 18, 10, 5)  # tokens that five requests want: one after the other ends
LAUNCHES = 2000  # of an operator with nothing to do, to see what launching costs
ROUNDS = 3
BATCHES = (1, 3, 5)


def main() -> None:
    lesson.part("What a decode step launches")
    eager = lesson.llm(enforce_eager=True, max_num_seqs=SEATS, max_model_len=LIMIT, num_pages=PAGES).engine
    if not what_is_launched(eager):
        return

    lesson.part("Record once, replay: what a recording sees")
    traps(eager.device)

    lesson.part("A few sizes, the largest first")
    replays = record_sizes()

    lesson.part("Which size does a batch take?")
    choose(replays)

    lesson.part("Rows that are nobody's")
    padding(replays)

    lesson.part("Before and after")
    before_and_after(eager, replays)

    lesson.part("What a debugger does not see")
    blind(eager, replays)

    lesson.part("When steps are not replayed")
    reasons()

    lesson.end(
        """Stop before a replay: [bold]--break graph.replay[/]. Look at [bold]self.rows[:, :size][/], then
        [bold]n[/] over the replay, and look at [bold]recorded.tokens[/].""",
        "Only with padding: [bold]--break graph.replay --break-when 'count < size'[/].",
        "Stop where a step is about to be recorded: [bold]--break graph.record --break-when 'size == 1'[/].",
        f"Before you run it, say which sizes SEATS = {OTHER_SEATS} records. Then change it in this file.",
    )


def prompts(tokenizer) -> list[list[int]]:
    """The running example, and one question more of its talk."""
    from minillm.learn.example import TALK, question, running_example

    found = running_example(tokenizer)
    if lesson.options.prompt:
        found["a question"] = question(tokenizer, lesson.options.prompt)
    return [*found.values(), question(tokenizer, TALK[1][0])]


def add(engine, prompt_ids: list[int], tokens: int):
    from minillm import SamplingParams

    return engine.add_request(prompt_ids, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))


def finish(engine) -> None:
    while engine.has_requests:
        engine.step()


def step_seconds(engine, batch: int, steps: int = 24) -> list[float]:
    """Seconds of each step in which so many requests decode, a token each."""
    chosen, seconds = prompts(engine.tokenizer), []
    for i in range(batch):
        add(engine, chosen[i % len(chosen)][-40:], steps + 2)
    engine.step()
    for _ in range(steps):
        start = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - start)
    finish(engine)
    return seconds


def what_is_launched(eager) -> bool:
    """The operators of a step by name, what launching alone costs, and what the step takes; False if nothing can be
    recorded with this model."""
    from minillm.debug.views.tape import launch_table

    one = lesson.quiet_llm(enforce_eager=False, max_num_seqs=1, max_model_len=LIMIT, num_pages=PAGES).engine
    if one.eager:
        lesson.say(f"Decode steps of this model are not replayed: {one.eager}. The lesson needs another --model.")
        return False
    names = launched(eager, one)
    where = "on this GPU" if eager.device.type == "cuda" else "on this CPU"
    lesson.say(
        f"""One request decodes: one token goes through the model. These operators run for it, {where}, one after the
        other:"""
    )
    lesson.show(launch_table(names))
    if eager.device.type != "cuda":
        lesson.say(
            """The first five names are compiled kernels, if this machine has a C++ compiler. The small arithmetic after
            them chooses the token, greedy and drawn at once: what is recorded cannot decide which of the two a row
            wants."""
        )
    price, step = launch_seconds(eager.device), median(step_seconds(eager, 1))
    lesson.say(
        f"""Before an operator computes anything, it has to be launched: Python evaluates its arguments, torch looks up
        the function for this device and type and makes a tensor for the result. To see that price alone, add 1 to one
        single number, {LAUNCHES:,} times: [bold]{amount(1e6 * price, "microseconds")}[/] each. For {len(names)}
        operators that is {amount(len(names) * price, "s")}, and the whole step takes {amount(step, "s")}."""
    )
    if eager.device.type == "cuda":
        lesson.say(
            """A GPU works while Python launches the next operator. But with one token each operator has so little to
            do that the GPU is done first, and waits. Then a step lasts as long as its launching."""
        )
    else:
        lesson.say(
            """On a CPU the same processor launches and works, and the work is the larger part. A GPU reads the same
            weights many times faster, and a launch costs no less there. So a decode step on a GPU mostly is launching,
            and the GPU idles in between."""
        )
    return True


def launched(eager, one) -> list[str]:
    """The names of all that one decode step of one request launches."""
    from minillm.debug.views.tape import call_name

    if eager.device.type != "cuda":
        return [call_name(call[0]) for call in one.runner.graphs.recorded[1].graph.calls]
    from torch.profiler import ProfilerActivity, profile

    add(eager, prompts(eager.tokenizer)[0], 8)
    for _ in range(4):
        eager.step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        eager.step()
        torch.cuda.synchronize()
    finish(eager)
    kernels = [event.name for event in watched.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return [re.split(r"[(<]", name.removeprefix("void "))[0].rpartition("::")[2] for name in kernels]


def launch_seconds(device) -> float:
    """What it costs to launch one operator that has next to nothing to do."""
    number = torch.zeros(1, device=device)
    with torch.inference_mode():
        number.add_(1)
        start = time.perf_counter()
        for _ in range(LAUNCHES):
            number.add_(1)
        return (time.perf_counter() - start) / LAUNCHES


def traps(device) -> None:
    """A recording of three operators, and what it does not see."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table
    from minillm.debug.views.tape import tape_table
    from minillm.kernels.torch.kernels import TorchKernels
    from minillm.worker.capture import NotRecordable, TapeRecorder, recorder_for

    x, settings = torch.tensor([1.0, 2.0], device=device), {"factor": 10, "bias": torch.ones(2, device=device)}
    calls = []

    def function():
        calls.append(1)
        return x * settings["factor"] + settings["bias"]

    rows: list[list] = []

    def compare(what: str) -> None:
        recording.replay()
        replayed, computed = result.tolist(), function().tolist()
        rows.append([what, str(computed), str(replayed), "yes" if replayed == computed else "no"])

    with torch.inference_mode():
        recording, result = recorder_for(device, TorchKernels()).record(function)
        lesson.say(
            """The function is x * factor + bias. It is called, and while it runs, every operator is written down with
            the very tensors and numbers that it got:"""
        )
        if device.type != "cuda":
            lesson.show(tape_table(recording))
        before = len(calls)
        compare("nothing")
        x.copy_(torch.tensor([3.0, 4.0]))
        compare("x.copy_([3, 4]): new numbers in the same memory")
        settings["factor"] = 100
        compare("factor = 100: a number of Python's")
        old_bias, on_host = settings["bias"], x.cpu()
        settings["factor"], settings["bias"] = 10, torch.tensor([5.0, 5.0], device=device)
        compare("bias = another tensor")
        ran = len(calls) - before - len(rows)
        try:
            TapeRecorder(TorchKernels()).record(lambda: 1 if (on_host > 2).all() else 0)
            refused = ""
        except NotRecordable as error:
            refused = str(error).partition(":")[0]
    columns = [Col("what changed", wraps=True), Col("Python gives"), Col("a replay gives"), Col("seen")]
    lesson.say("Then something changes, and the recording is replayed:")
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))
    lesson.say(
        f"""A replay runs the same operators on the same memory. It sees what was [good]written into[/] that memory, and
        nothing else: the number 10 is part of the recording, and so is the place of the old bias (which still holds
        {old_bias.tolist()}). The function itself
        ran {ran} times in these replays. And what has to look at a number on its way, as an if does, cannot be
        recorded at all: [warn]{refused}[/]."""
    )


def record_sizes():
    """The engine that replays: what it records, in which order, and what that costs."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table

    seen: list[tuple[int, float, int]] = []

    def note(event: Event) -> None:
        seen.append((event.size, time.perf_counter(), memory(event.graphs)))

    with listen("graph.record", note):
        engine = lesson.llm(enforce_eager=False, max_num_seqs=SEATS, max_model_len=LIMIT, num_pages=PAGES).engine
    graphs = engine.runner.graphs
    seen.append((0, seen[0][1] + graphs.seconds, memory(graphs)))
    rows = []
    for (size, began, had), (_, ended, has) in pairwise(seen):
        rows.append([str(size), amount(ended - began, "s"), amount(float(has - had), "B")])
    lesson.say(
        f"""A recorded step has a fixed number of rows. One for every batch size would be many, so a few sizes are
        chosen ({", ".join(map(str, graphs.sizes))}), and they are recorded when the engine is born. The largest
        comes first: all that it computes on its way needs memory. The smaller ones find that memory and use it
        again, for no two of them ever run at the same time:"""
    )
    columns = [Col("rows", "right"), Col("time to record", "right"), Col("memory taken for it", "right")]
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))
    lesson.say(
        f"""Together {amount(graphs.seconds, "s")}, once. Nobody's request was in these steps: all rows were padding,
        which you see in part 5. Their page table is empty, and they wrote nothing into the cache."""
    )
    return engine


def memory(graphs) -> int:
    """Bytes that recordings have taken so far."""
    if graphs.last_tokens.device.type == "cuda":
        return torch.cuda.memory_reserved()
    return graphs.recorder.pool.num_bytes


def choose(engine) -> None:
    from minillm.debug.views.sizes import size_bars
    from minillm.worker.graphs import capture_sizes, choose_size

    graphs = engine.runner.graphs
    lesson.say("The smallest that has room. What is too much is filled up with rows that are nobody's:")
    lesson.show(size_bars(graphs.sizes, choose_size, graphs.sizes[-1]))
    lesson.say(
        f"""Padding is computed like every other row. So sizes lie close together where batches are small, and a
        little work is wasted instead of a recording for each. With the default of 256 seats there are
        {len(capture_sizes(256))} sizes, from 1 to 256. A batch that is larger than the largest is computed from
        Python."""
    )


def padding(engine) -> None:
    """Five requests that end one after the other: the buffers of one replay, the memory behind them, and the cache."""
    from minillm.debug.views.replay_rows import replay_rows

    graphs, cache = engine.runner.graphs, engine.runner.kv_cache
    sizes, addresses, drawn, written = [], set(), [], []

    def note(event: Event) -> None:
        sizes.append((event.count, event.size))
        addresses.add(
            (graphs.rows.data_ptr(), graphs.lengths.data_ptr(), graphs.recorded[event.size].tokens.data_ptr())
        )
        if event.count == 3 and not drawn:
            drawn.append(event.size)
            drawn.append(replay_rows(graphs, event.count, event.size, engine.scheduler.running))
            written.append(cache.tensor.flatten(1, 2).clone())

    for prompt_ids, tokens in zip(prompts(engine.tokenizer), WANTS):
        add(engine, prompt_ids, tokens)
    with listen("graph.replay", note):
        while engine.has_requests:
            engine.step()
            if len(written) == 1:
                changed = (cache.tensor.flatten(1, 2) != written[0]).flatten(2).any(dim=2).any(dim=0)
                written.append(changed.nonzero().flatten().tolist())
    lesson.say(
        f"""Five requests come, and end one after the other. Their prompts are computed from Python, for prompts have
        any length. All {len(sizes)} decode steps are replayed. Before each, the step's numbers are written into
        buffers that never move. One of them, with three requests in a step of {drawn[0]}:"""
    )
    lesson.show(drawn[1])
    lesson.say(
        f"""A row of padding has the seat behind all seats, whose last token is nobody's. Its slot is -1, and a negative
        slot is written nowhere. Its length is 0, so attention looks at nothing. Measured: this step changed
        {len(written[1])} slots of the cache ({", ".join(map(str, written[1]))})."""
    )
    kinds = dict.fromkeys(sizes)
    lesson.say(
        f"""Rows and size in all these steps: {", ".join(f"{count} of {size}" for count, size in kinds)}. The tokens
        that go in are not in the table: the step before has left them on the device, at each seat, and the recorded
        step begins by picking up those of its seats. The buffers had {len({place[0] for place in addresses})}
        address in all steps."""
    )


def before_and_after(eager, replays) -> None:
    """The same requests on both: the tokens, and the time of a step for several batch sizes."""
    from minillm.debug.views.compare import before_after

    tokens = []
    for engine in (eager, replays):
        chosen = prompts(engine.tokenizer)
        requests = [add(engine, prompt_ids, wanted) for prompt_ids, wanted in zip(chosen, WANTS)]
        finish(engine)
        tokens.append([request.output_ids for request in requests])
    times: dict[tuple[int, int], list[float]] = {}
    for _ in lesson.each(range(ROUNDS), "timing steps"):
        for batch in BATCHES:
            for side, engine in enumerate((eager, replays)):
                times.setdefault((batch, side), []).append(median(step_seconds(engine, batch)))
    sizes = replays.runner.graphs.sizes
    rows = []
    for batch in BATCHES:
        size = min((size for size in sizes if size >= batch), default=batch)
        name = f"a step of {batch}" + (f", replayed as {size}" if size > batch else "")
        rows.append((name, times[batch, 0], times[batch, 1], "s", "lower"))
    lesson.say(f"A whole step of the engine, scheduler and all: the median of {ROUNDS} rounds.")
    lesson.show(before_after(rows, before="from Python", after="replayed"))
    lesson.say(f"The same tokens, both times: [good]{tokens[0] == tokens[1]}[/].")
    if eager.device.type != "cuda":
        lesson.say(
            """On a CPU a replay saves the model's Python and nothing of the work, and a row of padding is work. So
            it may win a little or lose a little here, and by default a CPU does without (enforce_eager="auto"). On a
            GPU one call launches the whole step."""
        )


def blind(eager, replays) -> None:
    """How often a probe in the model fires on both sides, and what is said to whoever arms it."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table

    rows, said = [], []
    for name, engine in (("from Python", eager), ("replayed", replays)):
        add(engine, prompts(engine.tokenizer)[0], 6)
        engine.step()
        counts = {"graph.replay": 0, "layer.attention": 0, "scheduler.plan": 0}

        def count(event: Event, counts: dict[str, int] = counts) -> None:
            counts[event.name] += 1

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with listen(list(counts), count):
                finish(engine)
        said += [str(one.message) for one in told]
        rows.append([name, *map(str, counts.values())])
    lesson.say(
        """The probe layer.attention stands at the beginning of each layer. In five decode steps of one request it is
        passed by, or not:"""
    )
    columns = [Col("decode steps"), *(Col(probe, "right") for probe in counts)]
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))
    lesson.say(
        """No Python of the model runs in a replay: no probe, no breakpoint, no print, no hook on a module. The
        operators run, and nobody is there to see it. So whoever arms such a probe while an engine replays is warned,
        once:"""
    )
    for message in dict.fromkeys(said) or ["(You have armed one yourself, and were told when the engine was made.)"]:
        lesson.say(f"[warn]{message}[/]")
    lesson.say(
        """To look into a layer, switch it off: [bold]enforce_eager=True[/]. With the default, "auto", an engine that
        is made while somebody listens, or while a debugger is attached, launches from Python by itself."""
    )


def reasons() -> None:
    """Why an engine does not replay, in its own words."""
    from minillm.debug.views.drawing import Drawing
    from minillm.debug.views.table import Col, table

    cases: dict[str, Callable] = {
        "enforce_eager=True": lambda: lesson.quiet_llm(enforce_eager=True, max_num_seqs=1),
        "enforce_eager='auto', the default": lambda: lesson.quiet_llm(max_num_seqs=1),
        "a mixture of experts": mixture,
    }
    rows = []
    for name, make in cases.items():
        why = make().engine.worker.eager
        rows.append([name, f"from Python: {why}" if why else "replayed"])
    lesson.say("Not every engine replays. Each says why not (engine.worker.eager, and the probe graph.choose):")
    columns = [Col("settings", wraps=True), Col("its decode steps", wraps=True)]
    lesson.show(Drawing(lambda canvas: table(canvas, columns, rows)))


def mixture():
    from minillm import LLM

    return LLM("nano-moe", enforce_eager=False, max_num_seqs=1, max_model_len=64)


if __name__ == "__main__":
    lesson.run(main)
