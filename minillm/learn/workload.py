"""A small workload that brings every exercise's function to work, for `diff` and `race`."""

from typing import Any

from minillm.engine.engine import Engine
from minillm.learn.example import running_example
from minillm.learn.swap import PLAIN
from minillm.request import Request, SamplingParams

MODEL = "nano-llama"
# Small pages and few of them, a small budget: prompts come in chunks, requests grow over pages, wait, are preempted.
TIGHT = {"page_size": 8, "num_pages": 34, "max_num_seqs": 4, "max_num_batched_tokens": 48, "max_model_len": 512}
ROOMY = {"num_pages": 256, "max_model_len": 512}


def make_engine(**settings: Any) -> Engine:
    from minillm import LLM

    return LLM(MODEL, **{**PLAIN, **settings}).engine


def add_requests(engine: Engine, max_tokens: int) -> list[Request]:
    """The running example, greedy, and one question whose answer is drawn, three times in different ways."""
    prompts = list(running_example(engine.tokenizer).values())
    greedy = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    drawn = [
        SamplingParams(temperature, top_p, top_k, seed, max_tokens, ignore_eos=True)
        for temperature, top_p, top_k, seed in ((2.0, 1.0, 4, 1), (4.0, 0.5, 0, 2), (0.7, 0.8, 12, 3))
    ]
    requests = [engine.add_request(prompt, greedy) for prompt in prompts]
    return requests + [engine.add_request(prompts[0], params) for params in drawn]
