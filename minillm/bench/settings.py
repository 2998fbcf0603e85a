"""What a benchmark's engine is given: the user's settings over its own, and a context limit that the work fits into."""

from pathlib import Path
from typing import Any

from minillm.bench.checkpoints import say
from minillm.bench.traffic import Traffic
from minillm.config import ALIASES, SWITCH_ALIASES, EngineConfig
from minillm.engine.engine import Engine
from minillm.model_config import ModelConfig

CONTEXT = 4096  # tokens; what the published figures were measured with


def engine_settings(
    user: dict[str, Any], defaults: dict[str, Any], chosen: dict[str, Any], work: list[Traffic]
) -> dict[str, Any]:
    """One set of keyword settings. ValueError if a request of the work cannot end within the context limit.

    user: what was asked for, under anybody's names. defaults: the benchmark's. chosen: what `model_settings` gave.
    """
    named = {our_name(name) for name in user}
    if "model" in named:
        raise ValueError("--set has the model, which a benchmark takes from --model")
    longest = ModelConfig.from_folder(Path(chosen["model"])).context_limit
    fresh = {"max_model_len": min(CONTEXT, longest), **defaults}
    settings = {**{name: value for name, value in fresh.items() if name not in named}, **user, **chosen}
    limit = next(value for name, value in settings.items() if our_name(name) == "max_model_len")
    for one in work:
        check_fits(one, longest if limit is None else limit, longest)
    return settings


def made_engine(user: dict[str, Any], defaults: dict[str, Any], chosen: dict[str, Any], work: list[Traffic]) -> Engine:
    """The engine with these settings."""
    say(f"loading {chosen['model']}")
    return Engine(EngineConfig.from_settings(**engine_settings(user, defaults, chosen, work)))


def our_name(setting: str) -> str:
    """``block_size`` -> ``page_size``: what we call a setting that others call so."""
    return SWITCH_ALIASES[setting][0] if setting in SWITCH_ALIASES else ALIASES.get(setting, setting)


def check_fits(work: Traffic, limit: int, longest: int) -> None:
    """ValueError says how long the workload's longest request is, and what to do."""
    if not isinstance(limit, int) or work.longest <= limit:
        return  # what is no number, the engine refuses
    says = f"workload {work.name!r} has a request of {work.longest:,} tokens, prompt and answer together, but "
    if work.longest > longest:
        raise ValueError(f"{says}the model was made for at most {longest:,}; choose another workload or model")
    raise ValueError(f"{says}max_model_len is {limit:,}; give --set max_model_len={work.longest}, or more")


def check_seats(engine: Engine, requests: int) -> None:
    """ValueError if so many cannot run at the same time."""
    if requests > engine.scheduler.num_seats:
        raise ValueError(
            f"{requests} requests at the same time, but the engine runs {engine.scheduler.num_seats}; ask for fewer, "
            f"or give --set max_num_seqs={requests}, and memory for as many"
        )
