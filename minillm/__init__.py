"""minillm: an LLM inference engine that a person can read, run, stop and step through.

The names below are loaded on first use, so that ``import minillm`` itself costs nothing.
"""

import os
from typing import TYPE_CHECKING, Any

import minillm.openmp  # noqa: F401 (before torch, for what it sets)

if TYPE_CHECKING:
    from minillm.config import EngineConfig
    from minillm.llm import LLM
    from minillm.request import CompletionOutput, Logprob, RequestOutput
    from minillm.sampling_params import SamplingParams, StructuredOutputsParams

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "CompletionOutput",
    "EngineConfig",
    "Logprob",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
]

_HOMES = {
    "LLM": "minillm.llm",
    "EngineConfig": "minillm.config",
    "SamplingParams": "minillm.sampling_params",
    "StructuredOutputsParams": "minillm.sampling_params",
    "Logprob": "minillm.request",
    "RequestOutput": "minillm.request",
    "CompletionOutput": "minillm.request",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'minillm' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


# A process that an engine with a learner's functions has started has them too; see minillm/learn/swap.py. By name,
# because nothing of the engine depends on that room: only who asks for it through the environment does.
if os.environ.get("MINILLM_MINE"):
    import importlib

    importlib.import_module("minillm.learn.swap").swap_from_environment()
