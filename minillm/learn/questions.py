"""What the quiz asks: questions.yaml as `Question`s, and how each is told from others: by its moment and its answer.

A moment gets the event at which a question might be asked. It gives the facts that the text mentions, or None if this
is no good moment. An answer gets the facts and a later event, and reads from it what the engine did; None: not yet.
Events hold live objects, so facts are copies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from minillm.config import EngineConfig
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler

Facts = dict[str, Any]
Moment = Callable[[Event, Scheduler], Facts | None]
Answer = Callable[[Facts, Event, Scheduler], int | bool | str | None]

ENGINES: dict[str, Callable[[EngineConfig], bool]] = {
    "any": lambda config: True,
    "static": lambda config: config.batching == "static",
    "continuous": lambda config: config.batching == "continuous",
    "small_budget": lambda config: config.enable_chunked_prefill and config.max_num_batched_tokens < 1024,
    "lpm": lambda config: config.scheduling_policy == "lpm",
    "few_pages": lambda config: config.num_pages is not None,
    "ahead": lambda config: config.async_scheduling is True,
    "ahead_small": lambda config: config.async_scheduling is True and (config.max_cached_tokens or 0) <= 1024,
    "replays": lambda config: config.enforce_eager is False and config.max_num_seqs > 2,
}


@dataclass(frozen=True)
class Question:
    """One thing to predict: where it is asked and checked (probes), in which words, and which engine it is about."""

    name: str
    lesson: int
    engine: str
    ask_at: str
    moment: Moment
    check_at: str
    answer: Answer
    kind: str
    text: str
    hint: str
    why: str

    def fits(self, config: EngineConfig) -> bool:
        return ENGINES[self.engine](config)


@lru_cache
def questions() -> tuple[Question, ...]:
    """All of them, in the file's order."""
    import yaml

    from minillm.learn import (
        answers,
        moments,
        moments_experts,
        moments_graphs,
        moments_kernels,
        moments_model,
        moments_overlap,
        moments_prefix,
        moments_profile,
        moments_sampling,
        moments_traffic,
    )

    at_moments: dict[str, Any] = {}
    for module in (
        moments,
        moments_traffic,
        moments_prefix,
        moments_sampling,
        moments_kernels,
        moments_graphs,
        moments_overlap,
        moments_profile,
        moments_experts,
        moments_model,
    ):
        at_moments |= vars(module)

    listed = yaml.safe_load(Path(__file__).with_name("questions.yaml").read_text(encoding="utf-8"))
    return tuple(
        Question(
            engine=entry.pop("engine", "any"),
            ask_at=ask_at,
            moment=at_moments[moment],
            check_at=check_at,
            answer=getattr(answers, answer),
            **entry,
        )
        for entry in listed
        for (ask_at, moment), (check_at, answer) in [(entry.pop("ask"), entry.pop("check"))]
    )
