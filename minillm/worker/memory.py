"""What fits: weights, what the largest step takes, and with what is left, pages of KV cache."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor

from torch import nn

from minillm.kvcache.pages import pages_for
from minillm.kvcache.storage import KVSpec
from minillm.probe import probe
from minillm.setup import Setup
from minillm.worker.device import DeviceMemory, show_bytes
from minillm.worker.estimate import activation_bytes, weight_bytes
from minillm.worker.trial import Measured

CPU_CACHE = (
    2**30
)  # a laptop has other things to hold than our cache, so on a CPU it stays at this unless told otherwise
LOWER = "lower max_model_len, max_num_batched_tokens or max_num_seqs"


@dataclass
class MemoryPlan:
    """Bytes, and the pages they make. ``limit`` is what the engine may take, ``free`` what the device had left before.

    activations: the most that a step holds beside weights and cache. outside, graphs: on a GPU, what CUDA and its
    libraries take beside torch, and what recorded decode steps do. how: where these come from.
    """

    free: int
    limit: int
    weights: int
    activations: int
    page_bytes: int
    page_size: int
    num_pages: int
    why: str  # where num_pages comes from
    outside: int = 0
    graphs: int = 0
    how: str = "by formula"

    @property
    def left(self) -> int:
        """What all else leaves for the cache; negative if it does not even fit itself."""
        return self.limit - self.weights - self.activations - self.outside - self.graphs

    @property
    def kv_cache(self) -> int:
        return self.num_pages * self.page_bytes

    @property
    def cached_tokens(self) -> int:
        return self.num_pages * self.page_size

    @property
    def total(self) -> int:
        return self.limit - self.left + self.kv_cache


def plan_memory(
    setup: Setup, model: nn.Module, memory: DeviceMemory, measure: Callable[[], Measured] | None = None
) -> MemoryPlan:
    """How many pages to make on a device that had ``memory``. ValueError, with the numbers, if that is too little.

    measure: finds out what the largest step takes, which is otherwise worked out from shapes.
    """
    plan = most_that_fits(setup, model, memory)
    if measure is not None:
        measured = measure()
        plan.activations = max(measured.in_torch - plan.weights, 0)
        plan.outside, plan.graphs, plan.how = measured.outside, measured.graphs, "measured in a trial step"
    plan.num_pages = max(_wanted(setup, plan, memory), 0) // plan.page_bytes
    _refuse_too_little(setup, plan)
    probe.on and probe("memory.plan", memory=plan, config=setup.config, setup=setup)
    return plan


def refuse_the_impossible(setup: Setup, model: nn.Module, memory: DeviceMemory) -> None:
    """Before the weights of a model that is built, on no memory yet, are read: ValueError if they, and the least that
    is needed beside them, cannot fit. Where the step will be measured, nothing is said against it yet."""
    plan = most_that_fits(setup, model, memory)
    if plan.limit > memory.free:
        most = floor(memory.free / memory.total * 100) / 100
        raise ValueError(
            f"gpu_memory_utilization={setup.config.gpu_memory_utilization} means {show_bytes(plan.limit)} of the "
            f"{show_bytes(memory.total)} that {memory.device} has, but only {show_bytes(memory.free)} are free; end "
            f"what holds the rest, or lower gpu_memory_utilization to at most {most}"
        )
    if measures(setup, memory):
        plan.activations = 0
    plan.num_pages = max(_wanted(setup, plan, memory), 0) // plan.page_bytes
    _refuse_too_little(setup, plan)


def measures(setup: Setup, memory: DeviceMemory) -> bool:
    """Whether a trial step decides: on a GPU, unless the size of the cache is asked for."""
    return memory.device.type == "cuda" and asked_bytes(setup, 1) is None


def most_that_fits(setup: Setup, model: nn.Module, memory: DeviceMemory) -> MemoryPlan:
    """What is needed, by formula, and as many pages as what is left holds; maybe none."""
    cpu = memory.device.type == "cpu"
    weights = weight_bytes(model)
    activations = activation_bytes(setup, model, gathers=cpu)
    page_bytes = KVSpec.of(setup.model_config, setup.num_kv_heads, setup.dtype).page_bytes(setup.page_size)
    share = setup.config.gpu_memory_utilization
    limit, why = (floor if cpu else ceil)(memory.total * share), f"what gpu_memory_utilization={share} leaves"
    if not cpu and asked_bytes(setup, 1) is not None:
        limit = memory.free  # whoever says how large the cache is has said how much to take (as in vLLM)
    plan = MemoryPlan(memory.free, limit, weights, activations, page_bytes, setup.page_size, 0, why)
    plan.num_pages = max(plan.left, 0) // page_bytes
    return plan


def asked_bytes(setup: Setup, page_bytes: int) -> tuple[int, str] | None:
    """What the user says that the cache takes, and how; None if that is for us to find out."""
    config = setup.config
    if config.num_pages is not None:
        return config.num_pages * page_bytes, f"num_pages={config.num_pages}"
    if config.max_cached_tokens is not None:
        pages = pages_for(config.max_cached_tokens, setup.page_size)
        return pages * page_bytes, f"max_cached_tokens={config.max_cached_tokens}"
    if config.kv_cache_memory_bytes is not None:
        return config.kv_cache_memory_bytes, f"kv_cache_memory_bytes={config.kv_cache_memory_bytes}"
    return None


def _wanted(setup: Setup, plan: MemoryPlan, memory: DeviceMemory) -> int:
    """Bytes for the cache: what is asked for, or a default; the plan is told why."""
    asked = asked_bytes(setup, plan.page_bytes)
    if asked is not None:
        wanted, plan.why = asked
        return wanted
    if memory.device.type != "cpu":
        return plan.left
    plan.why = f"{CPU_CACHE / 2**30:.0f} GiB or one longest request, a CPU's default"
    return min(max(CPU_CACHE, _one_request(setup, plan)), plan.left)


def _refuse_too_little(setup: Setup, plan: MemoryPlan) -> None:
    """ValueError if not even the weights fit, or the cache asked for, or one longest request, or a single page."""
    if plan.weights > plan.limit:
        raise ValueError(
            f"the weights take {show_bytes(plan.weights)}, but of {show_bytes(plan.free)} free memory only "
            f"{show_bytes(plan.limit)} may be used; use a smaller model or dtype, or raise gpu_memory_utilization"
        )
    asked, one_request = asked_bytes(setup, plan.page_bytes), _one_request(setup, plan)
    if asked is not None and asked[0] > plan.left:
        raise ValueError(
            f"the KV cache asked for takes {show_bytes(asked[0])}, but {_left_over(plan)}; ask for less, or {LOWER}"
        )
    if asked is None and plan.kv_cache < one_request:
        raise ValueError(
            f"one request of max_model_len={setup.max_model_len} tokens needs {show_bytes(one_request)} of KV cache, "
            f"but {_left_over(plan)}; {LOWER}, or raise gpu_memory_utilization"
        )
    if plan.num_pages < 1:
        raise ValueError(
            f"the KV cache asked for takes {asked and asked[0]} bytes, but one page takes {plan.page_bytes}; ask for "
            "more"
        )


def _one_request(setup: Setup, plan: MemoryPlan) -> int:
    return pages_for(setup.max_model_len, plan.page_size) * plan.page_bytes


def _left_over(plan: MemoryPlan) -> str:
    weights, left = show_bytes(plan.weights), show_bytes(max(plan.left, 0))
    beside = f" and the largest step {show_bytes(plan.activations)}" if plan.activations else ""
    beside += f", CUDA beside torch {show_bytes(plan.outside)}" if plan.outside else ""
    beside += f", CUDA graphs {show_bytes(plan.graphs)}" if plan.graphs else ""
    return (
        f"of {show_bytes(plan.free)} free memory {show_bytes(plan.limit)} may be used; weights take {weights}{beside}, "
        f"which leaves {left}"
    )
