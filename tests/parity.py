"""Driving an engine and Hugging Face's model over the same prompts, and comparing logits and greedy tokens."""

import random
from typing import Any

import torch
from tiny import LLAMA, hf_logits
from torch import Tensor
from workload import LOGITS_TOLERANCE, Job, assert_idle, run_jobs

from minillm.engine.engine import Engine
from minillm.probe import listen

COUNT = 64


def random_prompt(length: int, seed: int = 0, vocab_size: int = int(str(LLAMA["vocab_size"]))) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(2, vocab_size) for _ in range(length)]


def greedy_with_logits(engine: Engine, prompts: list[list[int]], count: int) -> list[tuple[list[int], Tensor]]:
    """For each prompt its tokens, and the logits ``[count, V]`` that each was chosen from."""
    logits: dict[int, list[Tensor]] = {}

    def keep(event: Any) -> None:
        for row, scores in zip(event.rows, event.logits):
            logits.setdefault(row.request_id, []).append(scores.clone())

    with listen("sampler.token", keep):
        run = run_jobs(engine, [Job(tuple(prompt), count) for prompt in prompts])
    return [(run.tokens(i), torch.stack(logits[run.finals[i].request_id])) for i in range(len(prompts))]


def assert_same_as_hf(engine: Engine, model: Any, prompts: list[list[int]], count: int = COUNT) -> None:
    for prompt, (tokens, logits) in zip(prompts, greedy_with_logits(engine, prompts, count)):
        expected = hf_logits(model, prompt + tokens)[len(prompt) - 1 : -1]  # [count, V]
        difference = (logits - expected).abs().amax(dim=1)
        assert logits.shape == expected.shape
        assert difference.max() < LOGITS_TOLERANCE, (
            f"step {int(difference.argmax())}: logits differ by {difference.max()}"
        )
        assert tokens == expected.argmax(dim=1).tolist()
        assert len(set(tokens)) > count // 6, f"greedy text that goes in circles proves little: {tokens}"
    assert_idle(engine)
