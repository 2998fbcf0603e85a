"""The ladder: one engine, its switches turned on one after the other, and the same requests on every rung.

The lowest rung forgets everything after each step; the highest is what the engine does by itself. No rung is other
code: each is settings of `EngineConfig`, on top of those below it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minillm.bench.settings import engine_settings, our_name
from minillm.bench.traffic import Traffic
from minillm.config import EngineConfig
from minillm.model_config import ModelConfig
from minillm.setup import Setup
from minillm.worker.platform import choose_kernels

# Values that depend on the work or on the machine: `Ground.values` says what they are.
SEATS, BUDGET, FASTEST = "<seats>", "<budget>", "<fastest>"


@dataclass(frozen=True)
class Ground:
    """What the ladder stands on: where it runs, the settings that all rungs share, and the work."""

    device: torch.device
    dtype: torch.dtype
    settings: dict[str, Any]
    work: Traffic

    @property
    def values(self) -> dict[str, Any]:
        """What stands for what: half of the requests may run at once; a step takes a quarter of the longest request, or
        two tokens for each that runs."""
        seats = seats_for(self.work)
        return {SEATS: seats, BUDGET: max(self.work.longest // 4, 2 * seats), FASTEST: self.fastest}

    @property
    def fastest(self) -> str:
        return "triton" if self.device.type == "cuda" else "cpu"


def no_kernels(ground: Ground) -> str | None:
    try:
        choose_kernels(ground.fastest, ground.device, ground.dtype)
    except ValueError as error:
        return str(error)
    return None


def no_graphs(ground: Ground) -> str | None:
    return None if ground.device.type == "cuda" else f"there are no CUDA graphs on a {ground.device.type}"


def nobody_beside(ground: Ground) -> str | None:
    return None if ground.device.type == "cuda" else "on a CPU there is nobody else to work meanwhile"


@dataclass(frozen=True)
class Rung:
    """settings: what changes, on top of the rungs below. shown: which of them a table shows. brings: what it is good
    for, where speed does not tell. why_not: why this machine cannot, or None."""

    name: str
    settings: dict[str, Any]
    shown: tuple[str, ...] = ()
    brings: str = ""
    why_not: Callable[[Ground], str | None] = lambda _: None


LADDER = (
    Rung(
        "no KV cache",
        {
            "reuse_kv": False, "page_size": "max_model_len", "max_num_seqs": 1, "batching": "static",
            "enable_chunked_prefill": False, "prefix_cache": "none", "kernels": "torch",
            "attention_backend": "reference", "pack_weights": False, "enforce_eager": True, "async_scheduling": False,
        },
        shown=("reuse_kv",),
    ),
    Rung("contiguous KV cache", {"reuse_kv": True, "page_size": "max_model_len"}, shown=("page_size",)),
    Rung("paged KV cache", {"page_size": 16}, brings="no memory is reserved for tokens that may never come"),
    Rung("static batching", {"batching": "static", "max_num_seqs": SEATS}, shown=("max_num_seqs",)),
    Rung("continuous batching", {"batching": "continuous"}),
    Rung(
        "chunked prefill",
        {"enable_chunked_prefill": True, "max_num_batched_tokens": BUDGET},
        shown=("max_num_batched_tokens",),
        brings="no answer stands still while a long prompt is computed",
    ),
    Rung("prefix cache", {"prefix_cache": "radix"}),
    Rung(
        "kernels",
        {"kernels": FASTEST, "attention_backend": "auto", "pack_weights": True},
        shown=("kernels",),
        why_not=no_kernels,
    ),
    Rung("CUDA graphs", {"enforce_eager": False}, why_not=no_graphs),
    Rung("overlap", {"async_scheduling": True}, why_not=nobody_beside),
)  # fmt: skip


def choose_rungs(names: list[str]) -> list[str]:
    """Those called so, or all if none are named. ValueError lists the names."""
    known = [rung.name for rung in LADDER]
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"the ladder has no rung {wrong[0]!r}; it has {', '.join(known)}")
    return [name for name in known if not names or name in names]


def check_not_turned(user: dict[str, Any]) -> None:
    """ValueError if the user sets what the ladder turns by itself."""
    turned = {name for rung in LADDER for name in rung.settings}
    if wrong := [name for name in user if our_name(name) in turned]:
        raise ValueError(f"--set has {wrong[0]}, which the ladder turns on the way; leave it out")


def stand(user: dict[str, Any], chosen: dict[str, Any], work: Traffic) -> Ground:
    """The ground for a user's settings, a model (see `model_settings`) and a workload. All rungs share a context limit
    as tight as the work, and as much cache as all running requests need. ValueError says what does not go."""
    check_not_turned(user)
    model_config, seats = ModelConfig.from_folder(Path(chosen["model"])), seats_for(work)
    limit = min(1 << (work.longest - 1).bit_length(), model_config.context_limit)  # the next power of two
    shared = {
        "max_model_len": limit,
        "max_cached_tokens": 2 * seats * limit,
        "max_num_batched_tokens": max(limit, seats * work.longest),  # until a rung chunks, prompts run whole
    }
    settings = engine_settings(user, shared, chosen, [work])
    setup = Setup.of(EngineConfig.from_settings(**settings))
    return Ground(setup.device, setup.dtype, settings, work)


def usual(user: dict[str, Any]) -> tuple[str, str, int]:
    """Model, workload and rounds where none are named: on a CPU, what takes a minute or two there. On a GPU a first
    round still compiles kernels, so there it is two."""
    device = str(user.get("device", "auto"))
    gpu = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    return ("qwen3-0.6b", "talk48", 2) if gpu else ("nano-llama", "talk24", 1)


def seats_for(work: Traffic) -> int:
    """How many requests run at the same time: half of them, so that the others wait for a seat."""
    return max(1, len(work.prompts) // 2)


def rungs(ground: Ground) -> Iterator[tuple[Rung, dict[str, Any], str | None]]:
    """Each rung, all its settings, and why it cannot be had here, or None: then those above do without it."""
    settings = dict(ground.settings)
    for rung in LADDER:
        if why_not := rung.why_not(ground):
            yield rung, {}, why_not
            continue
        settings |= {name: ground.values.get(value, value) for name, value in rung.settings.items()}
        yield rung, dict(settings), None


def turned_on(rung: Rung, ground: Ground) -> str:
    """``page_size=16``: what a table shows of a rung's settings."""
    names = rung.shown or tuple(rung.settings)
    return ", ".join(f"{name}={ground.values.get(rung.settings[name], rung.settings[name])}" for name in names)
