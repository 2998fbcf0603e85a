"""Requests that run together: one among strangers, and the same once more in the last row."""

from minillm.engine.engine import Engine
from minillm.learn.asking import finish
from minillm.learn.example import running_example
from minillm.request import Request
from minillm.sampling_params import SamplingParams

Wanted = tuple[list[int], SamplingParams]  # a prompt, and what is asked for


def ask_all(engine: Engine, wanted: list[Wanted]) -> list[Request]:
    """All in one batch, to the end of all."""
    requests = [engine.add_request(prompt_ids, params) for prompt_ids, params in wanted]
    finish(engine)
    return requests


def among_strangers(engine: Engine, mine: Wanted) -> tuple[Request, Request]:
    """In a batch of seven, second and last; the others have other prompts, settings and lengths."""
    prompts = list(running_example(engine.tokenizer).values())
    strange = [SamplingParams(temperature=1.5, seed=100 + i, max_tokens=8 + 4 * i, ignore_eos=True) for i in range(5)]
    strange[1].frequency_penalty, strange[2].top_k, strange[3].min_p = 1.0, 20, 0.1
    others = [(prompts[i % 4], params) for i, params in enumerate(strange)]
    _, first, *_, twin = ask_all(engine, [others[0], mine, *others[1:], mine])
    return first, twin
