"""What a decode step launches, what launching costs, and what a whole step takes."""

import re
import time
from collections.abc import Iterable, Sequence
from functools import partial
from statistics import median

import torch

from minillm.debug.views.spread import spread
from minillm.debug.views.tape import call_name
from minillm.engine.engine import Engine
from minillm.learn.asking import ask, finish
from minillm.learn.example import TALK, question, running_example
from minillm.learn.timing import ROUNDS, in_turns
from minillm.text.tokenizer import Tokenizer

LAUNCHES = 2000  # of an operator with nothing to do, to see what launching costs


def five_prompts(tokenizer: Tokenizer, own: str | None) -> list[list[int]]:
    """The running example, and one question more of its talk."""
    return [*running_example(tokenizer, own).values(), question(tokenizer, TALK[1][0])]


def launched(eager: Engine, one: Engine, prompt_ids: list[int]) -> list[str]:
    """The names of all that one decode step of one request launches. On a CPU the tape of an engine that replays says
    it, on a GPU torch's profiler."""
    if eager.device.type != "cuda":
        return [call_name(call[0]) for call in one.runner.graphs.recorded[1].graph.calls]  # type: ignore[union-attr]
    from torch.profiler import ProfilerActivity, profile  # here: only a GPU's launches need it

    ask(eager, prompt_ids, 8)
    for _ in range(4):
        eager.step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        eager.step()
        torch.cuda.synchronize()
    finish(eager)
    events = watched.events() or ()
    kernels = [event.name for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    return [re.split(r"[(<]", name.removeprefix("void "))[0].rpartition("::")[2] for name in kernels]


def launch_seconds(device: torch.device) -> float:
    """What it costs to launch one operator that has next to nothing to do."""
    number = torch.zeros(1, device=device)
    with torch.inference_mode():
        number.add_(1)
        start = time.perf_counter()
        for _ in range(LAUNCHES):
            number.add_(1)
        return (time.perf_counter() - start) / LAUNCHES


def launch_and_step(eager: Engine, prompts: list[list[int]]) -> tuple[float, float, str]:
    """Seconds of one launch, and of a whole step of one request; and what they were in each round, in words."""
    ways = {"launch": lambda: launch_seconds(eager.device), "step": lambda: step_seconds(eager, prompts, 1, steps=12)}
    launches, steps = in_turns(ways).values()
    shown = spread([1e6 * seconds for seconds in launches], "microseconds"), spread(steps, "s")
    said = f"{len(ROUNDS)} rounds in turns: a launch took {shown[0]}, a step {shown[1]}."
    return median(launches), median(steps), said


def who_waits(device: torch.device) -> str:
    """What the price of launching means on this device, in words."""
    if device.type == "cuda":
        return """A GPU works while Python launches the next operator. But with one token each operator has so little to
            do that the GPU is done first, and waits. Then a step lasts as long as its launching."""
    return """On a CPU the same processor launches and works, so nobody waits. A GPU reads the same weights many times
        faster, and a launch costs no less there. So on a GPU a decode step of a small model mostly is launching, and
        the GPU idles in between; the larger the model, the smaller that share."""


def step_seconds(engine: Engine, prompts: list[list[int]], batch: int, steps: int = 24) -> float:
    """Seconds of a step in which so many requests decode, a token each; the median."""
    for i in range(batch):
        ask(engine, prompts[i % len(prompts)][-40:], steps + 2)
    engine.step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - start)
    finish(engine)
    return median(seconds)


def in_turn(
    engines: tuple[Engine, Engine], prompts: list[list[int]], batches: Sequence[int], rounds: Iterable[int]
) -> list[tuple]:
    """Rows for `before_after`: a step of each batch size, from Python and replayed, in every round."""
    ways = {(batch, engine): partial(step_seconds, engine, prompts, batch) for batch in batches for engine in engines}
    times = in_turns(ways, rounds)
    rows = []
    for batch in batches:
        size = min((size for size in engines[1].runner.graphs.sizes if size >= batch), default=batch)  # type: ignore[union-attr]
        name = f"a step of {batch}" + (f", replayed as {size}" if size > batch else "")
        rows.append((name, *(times[batch, engine] for engine in engines), "s", "lower"))
    return rows
