"""A small workload that brings every exercise's function to work, for `diff` and `race`."""

from importlib import import_module
from typing import Any

from minillm.engine.engine import Engine
from minillm.learn.example import running_example
from minillm.learn.swap import PLAIN
from minillm.llm import LLM
from minillm.request import Request, SamplingParams

# Small pages and few of them, a small budget: prompts come in chunks, requests grow over pages, wait, are preempted.
TIGHT = {"page_size": 4, "num_pages": 68, "max_num_seqs": 4, "max_num_batched_tokens": 48, "max_model_len": 512}
ROOMY = {"num_pages": 256, "max_model_len": 512}


def make_engine(model: str = "nano-llama", **settings: Any) -> Engine:
    """An engine on this model, which may be a task's ``module:function`` that makes one."""
    module, _, maker = model.partition(":")
    model = getattr(import_module(module), maker)() if maker else model
    engine = LLM(model, **{**PLAIN, **settings}).engine
    if engine.overlap:
        engine.worker.device = engine.runner  # no thread: two runs that are compared must go in one order
    return engine


def add_requests(engine: Engine, max_tokens: int) -> list[Request]:
    """The running example, greedy; one question whose answer is drawn, three times in different ways; and what lesson
    07 adds: a penalised answer, one that min-p keeps together, and one that a stop string ends."""
    prompts = list(running_example(engine.tokenizer).values())
    greedy = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    drawn = [
        SamplingParams(temperature, top_p, top_k, seed, max_tokens, ignore_eos=True)
        for temperature, top_p, top_k, seed in ((2.0, 1.0, 4, 1), (4.0, 0.5, 0, 2), (0.7, 0.8, 12, 3))
    ]
    controls: tuple[dict[str, Any], ...] = (
        {"temperature": 0, "repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": 0.5},
        {"temperature": 3, "min_p": 0.02, "seed": 4},
        {"temperature": 0, "stop": ["pages of"]},
    )
    controlled = [SamplingParams(**control, max_tokens=max_tokens, ignore_eos=True) for control in controls]
    requests = [engine.add_request(prompt, greedy) for prompt in prompts]
    requests += [engine.add_request(prompts[0], params) for params in drawn]
    return requests + [engine.add_request(prompt, params) for prompt, params in zip(prompts[::-1], controlled)]
