"""What controls cost: the time of a step whose requests ask for nothing, for a little, for everything."""

import time
from collections.abc import Iterable
from functools import partial
from statistics import median, quantiles
from typing import Any

from minillm.debug.views.drawing import Drawing
from minillm.debug.views.spread import NOISE, is_noise, spread
from minillm.debug.views.table import Cells, drawn, numbers, texts
from minillm.engine.engine import Engine
from minillm.learn.asking import finish
from minillm.learn.timing import in_turns
from minillm.sampling_params import SamplingParams, StructuredOutputsParams

BATCH, STEPS = 16, 16  # requests at once, and steps that they decode together

PLAIN: dict[str, Any] = {"temperature": 0}
DRAWS: dict[str, Any] = {"temperature": 1, "seed": 1}
EVERYTHING: dict[str, Any] = {
    "temperature": 1.2,
    "top_p": 0.95,
    "min_p": 0.02,
    "seed": 7,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.2,
    "presence_penalty": 0.2,
    "logit_bias": {38: -1.0},
    "bad_words": ["Return", "page table"],
    "min_tokens": STEPS,
    "stop": ["no such text"],
    "logprobs": 5,
    "structured_outputs": StructuredOutputsParams(regex="(.|\n)*"),
}
KINDS = {
    "all greedy": [PLAIN] * BATCH,
    "one with penalties, others greedy": [{**PLAIN, "repetition_penalty": 1.2}] + [PLAIN] * (BATCH - 1),
    "one with everything, others greedy": [EVERYTHING] + [PLAIN] * (BATCH - 1),
    "all draw": [DRAWS] * BATCH,
    "all with everything": [EVERYTHING] * BATCH,
}


def time_kinds(engine: Engine, prompt: list[int], rounds: Iterable[int]) -> Drawing:
    """Each kind of batch in each round; of a round's steps the time than which a quarter was faster."""
    ways = {name: partial(typical, engine, prompt, settings) for name, settings in KINDS.items()}
    times = in_turns(ways, rounds)
    least = times["all greedy"]
    rows: list[Cells] = [
        [name, spread([1e6 * second for second in seconds]), _more(seconds, least) if seconds is not least else ""]
        for name, seconds in times.items()
    ]
    return drawn([*texts(f"{BATCH} requests"), *numbers("microseconds a step", "more")], rows)


def _more(seconds: list[float], least: list[float]) -> str:
    """How much longer, or that nobody can tell."""
    return NOISE if is_noise(seconds, least) else f"{median(seconds) / median(least) - 1:+.0%}"


def typical(engine: Engine, prompt: list[int], settings: list[dict[str, Any]]) -> float:
    """A step's seconds: a quarter of the steps were faster."""
    return quantiles(step_times(engine, prompt, settings), n=4)[0]


def step_times(engine: Engine, prompt: list[int], settings: list[dict[str, Any]]) -> list[float]:
    """The seconds of each step in which all of these requests decode."""
    seconds = []
    for one in settings:
        engine.add_request(prompt, SamplingParams(**one, max_tokens=STEPS, ignore_eos=True))
    engine.step()
    for _ in range(STEPS - 2):
        start = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - start)
    finish(engine)
    return seconds
