"""Lesson 09: CUDA graphs.

Turned on: ``enforce_eager=False``. A decode step is some hundred small operators, and Python launches them one by one,
the same ones in the same order, step after step. So one step is recorded, and from then on replayed: one call, and no
Python. The price is that nothing may move: the step's numbers lie in buffers that stay where they are, and a step is
recorded for a few batch sizes only. On a GPU the recording is a CUDA graph, and this is worth a lot. On a CPU it is a
tape, which saves little, and has the same rules: so all of them can be seen here.
"""

from minillm.learn.lesson import Lesson

lesson = Lesson(
    number=9,
    title="CUDA graphs",
    turns_on="enforce_eager=False (before: True)",
    buys="decode steps that do not wait for Python to launch them",
    breaks="graph.record,graph.replay",
)

import torch

from minillm import LLM
from minillm.debug.views.compare import before_after
from minillm.debug.views.sizes import size_bars
from minillm.debug.views.table import drawn, texts
from minillm.debug.views.tape import launch_table, tape_table
from minillm.debug.views.units import amount
from minillm.learn.asking import all_answered, ask
from minillm.learn.lessons.lesson_09 import launching, recordings
from minillm.learn.lessons.lesson_09.passed_by import passed_by
from minillm.learn.lessons.lesson_09.three_operators import ThreeOperators, why_not
from minillm.probe import listen
from minillm.worker.graphs import capture_sizes, choose_size

SEATS = 8
OTHER_SEATS = 8 if SEATS == 6 else 6  # to try
LIMIT, PAGES = 512, 256  # context in tokens, and what there is of cache
WANTS = (36, 26, 18, 10, 5)  # tokens that five requests want: one after the other ends
BATCHES, ROUNDS = (1, 3, 5), 3  # requests in the steps that are timed, and how often


def main() -> None:
    lesson.part("What a decode step launches")
    eager = lesson.llm(enforce_eager=True, max_num_seqs=SEATS, max_model_len=LIMIT, num_pages=PAGES).engine
    prompts = launching.five_prompts(eager.tokenizer, lesson.options.prompt)
    if not what_is_launched(eager, prompts):
        return

    lesson.part("Record once, replay: what a recording sees")
    traps(eager.device)

    lesson.part("A few sizes, the largest first")
    replays = record_sizes()

    lesson.part("Which size does a batch take?")
    choose(replays)

    lesson.part("Rows that are nobody's")
    padding(replays, prompts)

    lesson.part("Before and after")
    before_and_after(eager, replays, prompts)

    lesson.part("What a debugger does not see")
    blind(eager, replays, prompts[0])

    lesson.part("When steps are not replayed")
    reasons()

    lesson.end(
        """Stop before a replay: [bold]--break graph.replay[/]. Look at [bold]self.rows[:, :size][/], then
        [bold]n[/] over the replay, and look at [bold]recorded.tokens[/].""",
        "Only with padding: [bold]--break graph.replay --break-when 'count < size'[/].",
        "Stop where a step is about to be recorded: [bold]--break graph.record --break-when 'size == 1'[/].",
        f"Before you run it, say which sizes SEATS = {OTHER_SEATS} records. Then change it in this file.",
    )


def what_is_launched(eager, prompts: list[list[int]]) -> bool:
    """The operators of a step by name, and what launching costs. False if nothing can be recorded with this model."""
    one = lesson.quiet_llm(enforce_eager=False, max_num_seqs=1, max_model_len=LIMIT, num_pages=PAGES).engine
    if why := one.worker.eager:
        lesson.say(f"Decode steps of this model are not replayed: {why}. The lesson needs another --model.")
        return False
    names = launching.launched(eager, one, prompts[0])
    lesson.say(f"""One request decodes: one token goes through the model. These operators run for it, on this
        {"GPU" if eager.device.type == "cuda" else "CPU"}, one after the other:""")
    lesson.show(launch_table(names))
    if eager.device.type != "cuda":
        lesson.say("""The first five names are compiled kernels, if this machine has a C++ compiler. The small
            arithmetic after them chooses the token, greedy and drawn at once: what is recorded cannot decide which of
            the two a row wants.""")
    price, step, rounds = launching.launch_and_step(eager, prompts)
    lesson.say(f"""Before an operator computes anything, it has to be launched: Python evaluates its arguments, torch
        looks up the function for this device and type and makes a tensor for the result. To see that price alone, add 1
        to one single number, {launching.LAUNCHES:,} times: [bold]{amount(1e6 * price, "microseconds")}[/] each. For
        {len(names)} operators that is {amount(len(names) * price, "s")}, and the whole step takes
        {amount(step, "s")}. ({rounds})""")
    lesson.say(launching.who_waits(eager.device))
    return True


@torch.inference_mode()
def traps(device) -> None:
    """A recording of three operators, and what it does not see."""
    made = ThreeOperators(device)
    lesson.say("""The function is x * factor + bias. It is called, and while it runs, every operator is written down
        with the very tensors and numbers that it got:""")
    if device.type != "cuda":
        lesson.show(tape_table(made.recording))
    made.compare("nothing")
    made.x.copy_(torch.tensor([3.0, 4.0]))
    made.compare("x.copy_([3, 4]): new numbers in the same memory")
    made.factor = 100
    made.compare("factor = 100: a number of Python's")
    old_bias, on_host = made.bias, made.x.cpu()
    made.factor, made.bias = 10, torch.tensor([5.0, 5.0], device=device)
    made.compare("bias = another tensor")
    ran, refused = made.ran, why_not(lambda: 1 if (on_host > 2).all() else 0)
    lesson.say("Then something changes, and the recording is replayed:")
    lesson.show(made.in_a_table())
    lesson.say(f"""A replay runs the same operators on the same memory. It sees what was [good]written into[/] that
        memory, and nothing else: the number 10 is part of the recording, and so is the place of the old bias (which
        still holds {old_bias.tolist()}). The function itself ran {ran} times in these replays. And what has to look at
        a number on its way, as an if does, cannot be recorded at all: [warn]{refused}[/].""")


def record_sizes():
    """The engine that replays: what it records, in which order, and what that costs."""
    recorded = recordings.Recorded()
    with listen("graph.record", recorded.note):
        engine = lesson.llm(enforce_eager=False, max_num_seqs=SEATS, max_model_len=LIMIT, num_pages=PAGES).engine
    graphs = engine.runner.graphs
    lesson.say(f"""A recorded step has a fixed number of rows. One for every batch size would be many, so a few sizes
        are chosen ({", ".join(map(str, graphs.sizes))}), and they are recorded when the engine is born. The largest
        comes first: all that it computes on its way needs memory. The smaller ones find that memory and use it again,
        for no two of them ever run at the same time:""")
    lesson.show(recorded.in_a_table(graphs))
    lesson.say(f"""Together {amount(graphs.seconds, "s")}, once. Nobody's request was in these steps: all rows were
        padding, which you see in part 5. Their page table is empty, and they wrote nothing into the cache.""")
    return engine


def choose(engine) -> None:
    graphs = engine.runner.graphs
    lesson.say("The smallest that has room. What is too much is filled up with rows that are nobody's:")
    lesson.show(size_bars(graphs.sizes, choose_size, graphs.sizes[-1]))
    lesson.say(f"""Padding is computed like every other row. So sizes lie close together where batches are small, and a
        little work is wasted instead of a recording for each. With the default of 256 seats there are
        {len(capture_sizes(256))} sizes, from 1 to 256. A batch that is larger than the largest is computed from
        Python.""")


def padding(engine, prompts: list[list[int]]) -> None:
    """Five requests that end one after the other: the buffers of one replay, the memory behind them, and the cache."""
    for prompt_ids, tokens in zip(prompts, WANTS):
        ask(engine, prompt_ids, tokens)
    seen = recordings.Replayed(engine, shown=3)
    with listen("graph.replay", seen.note):
        while engine.has_requests:
            engine.step()
            seen.look()
    lesson.say(f"""Five requests come, and end one after the other. Their prompts are computed from Python, for prompts
        have any length. All {len(seen.kinds)} decode steps are replayed. Before each, the step's numbers are written
        into buffers that never move. One of them, with three requests in a step of {seen.size}:""")
    lesson.show(seen.buffers)
    lesson.say(f"""A row of padding has the seat behind all seats, whose last token is nobody's. Its slot is -1, and a
        negative slot is written nowhere. Its length is 0, so attention looks at nothing. Measured: this step changed
        {len(seen.slots)} slots of the cache ({", ".join(map(str, seen.slots))}).""")
    kinds = ", ".join(f"{count} of {size}" for count, size in dict.fromkeys(seen.kinds))
    lesson.say(f"""Rows and size in all these steps: {kinds}. The tokens that go in are not in the table: the step
        before has left them on the device, at each seat, and the recorded step begins by picking up those of its seats.
        The buffers had {len(seen.places)} address in all steps.""")


def before_and_after(eager, replays, prompts: list[list[int]]) -> None:
    """The same requests on both: the tokens, and the time of a step for several batch sizes."""
    tokens = [all_answered(engine, prompts, WANTS) for engine in (eager, replays)]
    rows = launching.in_turn((eager, replays), prompts, BATCHES, lesson.each(range(ROUNDS), "timing steps"))
    lesson.say(f"A whole step of the engine, scheduler and all: the median of {ROUNDS} rounds, in turns.")
    lesson.show(before_after(rows, before="from Python", after="replayed"))
    lesson.say(f"The same tokens, both times: [good]{tokens[0] == tokens[1]}[/].")
    if eager.device.type != "cuda":
        lesson.say("""On a CPU a replay saves the model's Python and nothing of the work, and a row of padding is work.
            So it may win a little or lose a little here, and by default a CPU does without (enforce_eager="auto"). On a
            GPU one call launches the whole step.""")


def blind(eager, replays, prompt_ids: list[int]) -> None:
    """How often a probe in the model fires on both sides, and what is said to whoever arms it."""
    engines, probes = {"from Python": eager, "replayed": replays}, ("graph.replay", "layer.attention", "scheduler.plan")
    counted, warned = passed_by(engines, prompt_ids, 6, probes)
    lesson.say("""The probe layer.attention stands at the beginning of each layer. In five decode steps of one request
        it is passed by, or not:""")
    lesson.show(counted)
    lesson.say("""No Python of the model runs in a replay: no probe, no breakpoint, no print, no hook on a module. The
        operators run, and nobody is there to see it. So whoever arms such a probe while an engine replays is warned,
        once:""")
    for message in warned or ["(You have armed one yourself, and were told when the engine was made.)"]:
        lesson.say(f"[warn]{message}[/]")
    lesson.say("""To look into a layer, switch it off: [bold]enforce_eager=True[/]. With the default, "auto", an engine
        that is made while somebody listens, or while a debugger is attached, launches from Python by itself.""")


def reasons() -> None:
    """Why an engine does not replay, in its own words."""
    cases = {
        "enforce_eager=True": lambda: lesson.quiet_llm(enforce_eager=True, max_num_seqs=1),
        "enforce_eager='auto', the default": lambda: lesson.quiet_llm(max_num_seqs=1),
        "a mixture of experts": lambda: LLM("nano-moe", enforce_eager=False, max_num_seqs=1, max_model_len=64),
    }
    lesson.say("Not every engine replays. Each says why not (engine.worker.eager, and the probe graph.choose):")
    whys = {name: make().engine.worker.eager for name, make in cases.items()}
    rows = [[name, f"from Python: {why}" if why else "replayed"] for name, why in whys.items()]
    lesson.show(drawn(texts("settings", "its decode steps"), rows))


if __name__ == "__main__":
    lesson.run(main)
