"""What a lesson asks of an engine: one more request, and that all of them come to their ends."""

from collections.abc import Sequence
from typing import Any

from minillm.engine.engine import Engine
from minillm.request import Request
from minillm.sampling_params import SamplingParams


def ask(engine: Engine, prompt: str | list[int], tokens: int, stream: bool = False, **settings: Any) -> Request:
    """Add a request that writes so many tokens, greedy unless ``settings`` say otherwise; nothing runs yet."""
    wanted = {"temperature": 0, "max_tokens": tokens, "ignore_eos": True, **settings}
    return engine.add_request(prompt, SamplingParams(**wanted), stream=stream)


def finish(engine: Engine) -> None:
    """Step until nobody is left."""
    while engine.has_requests:
        engine.step()


def answered(engine: Engine, prompt: str | list[int], tokens: int, **settings: Any) -> Request:
    """The same, and run to its end."""
    request = ask(engine, prompt, tokens, **settings)
    finish(engine)
    return request


def all_answered(engine: Engine, prompts: list[list[int]], wanted: Sequence[int]) -> list[list[int]]:
    """Requests that run together, each with the tokens that it wants: what each has written."""
    requests = [ask(engine, prompt_ids, tokens) for prompt_ids, tokens in zip(prompts, wanted)]
    finish(engine)
    return [request.output_ids for request in requests]
