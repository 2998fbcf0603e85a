"""What fits: weights, the activations of the largest step, and with what is left, pages of KV cache."""

from dataclasses import dataclass

import psutil
import torch
from torch import nn

from minillm.config import EngineConfig, ModelConfig
from minillm.debug.probes import probe
from minillm.kvcache.pages import pages_for
from minillm.layers.embedding import LMHead
from minillm.layers.moe import MixtureOfExperts
from minillm.quantization.packed import PackedDenseFormat

CPU_CACHE = (
    2**30
)  # a laptop has other things to hold than our cache, so on a CPU it stays at this unless told otherwise


@dataclass
class MemoryPlan:
    """Bytes, and the pages they make. ``limit`` is what the engine may take, ``free`` what the device has left now."""

    free: int
    limit: int
    weights: int
    activations: int
    page_bytes: int
    page_size: int
    num_pages: int
    why: str  # where num_pages comes from

    @property
    def left(self) -> int:
        """What weights and activations leave for the cache; negative if they do not even fit themselves."""
        return self.limit - self.weights - self.activations

    @property
    def kv_cache(self) -> int:
        return self.num_pages * self.page_bytes

    @property
    def cached_tokens(self) -> int:
        return self.num_pages * self.page_size

    @property
    def total(self) -> int:
        return self.weights + self.activations + self.kv_cache


def plan_memory(
    config: EngineConfig, model_config: ModelConfig, model: nn.Module, dtype: torch.dtype, free: int, cpu: bool
) -> MemoryPlan:
    """How many pages to make for a model that is built, on no memory yet, where ``free`` bytes are left on the device.

    ValueError, with the numbers, if weights and activations leave too little.
    """
    plan = most_that_fits(config, model_config, model, dtype, free)
    assert config.max_model_len is not None
    left, one_request = plan.left, pages_for(config.max_model_len, plan.page_size) * plan.page_bytes
    asked = _asked_bytes(config, plan.page_bytes)
    if asked is not None:
        wanted, plan.why = asked
    elif cpu:
        wanted = min(max(CPU_CACHE, one_request), left)
        plan.why = f"{CPU_CACHE / 2**30:.0f} GiB or one longest request, a CPU's default"
    else:
        wanted = left
    plan.num_pages = max(wanted, 0) // plan.page_bytes
    if asked is not None and wanted > left:
        raise ValueError(f"the KV cache asked for takes {show_bytes(wanted)}, but {_left_over(plan)}; ask for less")
    if asked is None and plan.kv_cache < one_request:
        raise ValueError(
            f"one request of max_model_len={config.max_model_len} tokens needs {show_bytes(one_request)} of KV cache, "
            f"but {_left_over(plan)}; lower max_model_len or max_num_batched_tokens, or raise gpu_memory_utilization"
        )
    if plan.num_pages < 1:
        raise ValueError(
            f"the KV cache asked for takes {wanted} bytes, but one page takes {plan.page_bytes}; ask for more"
        )
    probe.on and probe("memory.plan", memory=plan, config=config)
    return plan


def most_that_fits(
    config: EngineConfig, model_config: ModelConfig, model: nn.Module, dtype: torch.dtype, free: int
) -> MemoryPlan:
    """What is needed, and as many pages as what is left of ``free`` bytes holds; maybe none."""
    assert isinstance(config.page_size, int)
    weights = weight_bytes(model)
    activations = activation_bytes(config, model_config, model, dtype)
    page_bytes = config.page_size * model_config.kv_bytes_per_token(dtype.itemsize)
    limit = int(free * config.gpu_memory_utilization)
    why = f"what gpu_memory_utilization={config.gpu_memory_utilization} leaves"
    plan = MemoryPlan(free, limit, weights, activations, page_bytes, config.page_size, 0, why)
    plan.num_pages = max(plan.left, 0) // page_bytes
    return plan


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters; a table that the embedding and a packed head share is there in both layouts."""
    head = getattr(model, "lm_head", None)
    twice = isinstance(head, LMHead) and head.keeps_weight and isinstance(head.format, PackedDenseFormat)
    return sum(p.nbytes for p in model.parameters()) + (head.weight.nbytes if twice and head else 0)


def activation_bytes(config: EngineConfig, model_config: ModelConfig, model: nn.Module, dtype: torch.dtype) -> int:
    """The most that one step holds beside weights and cache: a layer's widest moment, a gathered context, logits."""
    c = model_config
    tokens = config.max_num_batched_tokens
    heads = (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim
    experts = (module.numbers_per_token for module in model.modules() if isinstance(module, MixtureOfExperts))
    widest = max(heads + c.num_attention_heads * c.head_dim, 3 * c.intermediate_size, *experts)
    layer = (
        tokens * (3 * c.hidden_size + widest) * dtype.itemsize
    )  # the residual stream, its normalised copy, the output
    gathered = 2 * (config.max_model_len or 0) * c.num_key_value_heads * c.head_dim * dtype.itemsize
    rows = min(config.max_num_seqs, tokens)
    return layer + gathered + 2 * rows * c.vocab_size * 4  # logits and probabilities, float32


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had on the device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def _asked_bytes(config: EngineConfig, page_bytes: int) -> tuple[int, str] | None:
    if config.num_pages is not None:
        return config.num_pages * page_bytes, f"num_pages={config.num_pages}"
    if config.max_cached_tokens is not None:
        assert isinstance(config.page_size, int)
        return pages_for(
            config.max_cached_tokens, config.page_size
        ) * page_bytes, f"max_cached_tokens={config.max_cached_tokens}"
    if config.kv_cache_memory_bytes is not None:
        return config.kv_cache_memory_bytes, f"kv_cache_memory_bytes={config.kv_cache_memory_bytes}"
    return None


def _left_over(plan: MemoryPlan) -> str:
    weights, step, left = show_bytes(plan.weights), show_bytes(plan.activations), show_bytes(max(plan.left, 0))
    return (
        f"of {show_bytes(plan.free)} free memory {show_bytes(plan.limit)} may be used; weights take {weights} and the "
        f"largest step {step}, which leaves {left}"
    )


def show_bytes(count: int) -> str:
    """A size for people: ``1.11 GiB``, ``64.0 KiB``."""
    if abs(count) >= 2**27:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.1f} MiB" if abs(count) >= 2**20 else f"{count / 2**10:.1f} KiB"
