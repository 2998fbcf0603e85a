"""Hypothesis strategies: random workloads, and random settings of the engine that can serve them.

A later switch joins the property tests by one line in `SWITCHES`, and one in `make_feasible` if it needs room for
something.
"""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from tiny import TEXT_VOCAB
from workload import Job

from minillm.kvcache.pages import pages_for

MAX_MODEL_LEN = 96

# A few prompts begin alike, as real ones do. Ids 0 and 1 are special tokens.
_ids = st.integers(2, TEXT_VOCAB - 1)
_opening = tuple(range(40, 72))
_prompts = st.one_of(
    st.lists(_ids, min_size=1, max_size=48).map(tuple),
    st.tuples(st.integers(1, len(_opening)), st.lists(_ids, max_size=8)).map(lambda p: (*_opening[: p[0]], *p[1])),
)
_letters = st.characters(min_codepoint=33, max_codepoint=126)

# One strategy for each setting of `EngineConfig` that must not change what is generated.
SWITCHES: dict[str, st.SearchStrategy[Any]] = {
    "page_size": st.sampled_from([1, 2, 3, 5, 8, 16, 17, 32, 64, "max_model_len"]),
    "max_num_seqs": st.sampled_from([1, 2, 3, 4, 8]),
    "max_num_batched_tokens": st.sampled_from([1, 2, 3, 7, 16, 33, 96, 2048]),
    "enable_chunked_prefill": st.booleans(),
    "long_prefill_token_threshold": st.sampled_from([0, 0, 1, 5, 16]),
    "batching": st.sampled_from(["continuous", "static"]),
    "prefix_cache": st.sampled_from(["radix", "radix", "none"]),
    "scheduling_policy": st.sampled_from(["fcfs", "lpm", "priority"]),
    "async_scheduling": st.booleans(),
    "reuse_kv": st.sampled_from([True, True, False]),
    "pack_weights": st.booleans(),
    "kernels": st.sampled_from(["auto", "torch"]),
    "attention_backend": st.sampled_from(["auto", "reference", "naive"]),
    "enforce_eager": st.sampled_from(["auto", True, False, False]),
    "seed": st.integers(0, 3),
}


@st.composite
def jobs(draw: st.DrawFn, aborts: bool = False) -> Job:
    """A request, greedy or seeded, that fits the context limit. Half of them want nothing of the other controls."""
    prompt = draw(_prompts)
    greedy = draw(st.booleans())
    arrives = draw(st.integers(0, 12))
    max_tokens = draw(st.integers(1, 24))
    return Job(
        prompt=prompt,
        max_tokens=max_tokens,
        arrives=arrives,
        aborted=draw(st.none() | st.integers(arrives, arrives + 20)) if aborts else None,
        temperature=0.0 if greedy else draw(st.sampled_from([0.3, 1.0, 2.0])),
        top_k=0 if greedy else draw(st.sampled_from([0, 1, 5, 40])),
        top_p=1.0 if greedy else draw(st.sampled_from([1.0, 0.95, 0.5, 1e-6])),
        seed=None if greedy else draw(st.integers(0, 2**64)),
        stop=tuple(draw(st.lists(_ids, max_size=6))),
        priority=draw(st.integers(-1, 1)),
        salt=draw(st.sampled_from([None, None, None, "a"])),
        n=1 if greedy else draw(st.sampled_from([1, 1, 1, 2, 3])),
        min_p=0.0 if greedy else draw(st.sampled_from([0.0, 0.0, 0.05, 0.5])),
        **(draw(_controls(max_tokens)) if draw(st.booleans()) else {}),
    )


@st.composite
def _controls(draw: st.DrawFn, max_tokens: int) -> dict[str, Any]:
    """What a job may want besides: each alone, or several at once. Stop strings are letters, so that they do come."""
    return {
        "repetition": draw(st.sampled_from([1.0, 1.0, 1.3, 0.7])),
        "frequency": draw(st.sampled_from([0.0, 0.0, 0.5, -0.5])),
        "presence": draw(st.sampled_from([0.0, 0.0, 1.5, -1.0])),
        "bias": tuple(draw(st.dictionaries(_ids, st.sampled_from([-5.0, 0.5, 4.0]), max_size=3)).items()),
        "min_tokens": draw(st.integers(0, max_tokens)),
        "stop_strings": tuple(draw(st.lists(st.text(_letters, min_size=1, max_size=2), max_size=8))),
        "logprobs": draw(st.sampled_from([None, None, 0, 3])),
    }


@st.composite
def settings_for(draw: st.DrawFn, workload: Sequence[Job], **fixed: Any) -> dict[str, Any]:
    """Settings that can serve the workload, often with hardly a page more than its longest request needs."""
    chosen = {name: draw(strategy) for name, strategy in SWITCHES.items()} | {"max_model_len": MAX_MODEL_LEN} | fixed
    return make_feasible(chosen, workload, draw(st.sampled_from([0, 0, 1, 2, 4, 16])))


def make_feasible(chosen: dict[str, Any], workload: Sequence[Job], spare_pages: int) -> dict[str, Any]:
    """Raise what is too small for any engine: the pages for the longest request, the budget where a step must take it
    whole."""
    page_size = MAX_MODEL_LEN if chosen["page_size"] == "max_model_len" else chosen["page_size"]
    needed = max(pages_for(job.longest, page_size) for job in workload)
    settings = {**chosen, "num_pages": needed + spare_pages}
    if not settings["reuse_kv"]:
        settings["prefix_cache"], settings["async_scheduling"] = "none", False
    if settings["prefix_cache"] == "none" and settings["scheduling_policy"] == "lpm":
        settings["scheduling_policy"] = "fcfs"
    if not (settings["enable_chunked_prefill"] and settings["reuse_kv"]):
        settings["max_num_batched_tokens"] = max(settings["max_num_batched_tokens"], MAX_MODEL_LEN)
    return settings


@st.composite
def scenarios(draw: st.DrawFn, aborts: bool = False, **fixed: Any) -> tuple[list[Job], dict[str, Any]]:
    """A workload of one to six requests, and settings for it."""
    workload = draw(st.lists(jobs(aborts=aborts), min_size=1, max_size=6))
    return workload, draw(settings_for(workload, **fixed))
