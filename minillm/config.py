"""What the user chose: `EngineConfig`, every switch of the engine. (What the checkpoint is: model_config.py.)"""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any

from minillm.checks import at_least, is_number, one_of

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTION_BACKENDS = ("naive", "reference", "blockwise", "cpu", "triton", "flash")

# What other engines call our settings. Their names are accepted; a remark says where theirs is not quite the same.
ALIASES = {
    "block_size": "page_size",  # vLLM
    "num_gpu_blocks_override": "num_pages",  # vLLM
    "model_path": "model",  # SGLang
    "context_length": "max_model_len",  # SGLang
    "mem_fraction_static": "gpu_memory_utilization",  # SGLang: there of weights and cache alone
    "max_running_requests": "max_num_seqs",  # SGLang
    "chunked_prefill_size": "max_num_batched_tokens",  # SGLang
    "max_total_tokens": "max_cached_tokens",  # SGLang
    "random_seed": "seed",  # SGLang
    "schedule_policy": "scheduling_policy",  # SGLang
}
# The same for switches that others have as a yes or no: their name, ours, and what their True and False mean here.
SWITCH_ALIASES: dict[str, tuple[str, dict[bool, Any]]] = {
    "enable_prefix_caching": ("prefix_cache", {True: "radix", False: "none"}),  # vLLM
    "disable_radix_cache": ("prefix_cache", {True: "none", False: "radix"}),  # SGLang
    "disable_overlap_schedule": ("async_scheduling", {True: False, False: True}),  # SGLang
    "disable_cuda_graph": ("enforce_eager", {True: True, False: "auto"}),  # SGLang
}

# What scripts for other engines set too: the values that are so here anyway. Others are refused, by name.
ONLY: dict[str, tuple[Any, ...]] = {
    "trust_remote_code": (False, True),  # no checkpoint's code is ever run
    "disable_log_stats": (True, False),
    "disable_custom_all_reduce": (False, True),
    "tensor_parallel_size": (1,),
    "pipeline_parallel_size": (1,),
    "data_parallel_size": (1,),
    "enable_expert_parallel": (False,),
    "distributed_executor_backend": (None, "uni"),
    "tokenizer_mode": ("auto",),
    "revision": (None,),
    "quantization": (None,),
    "kv_cache_dtype": ("auto",),
    "speculative_config": (None,),
    "enable_lora": (False,),
    "cpu_offload_gb": (0,),
    "generation_config": ("auto",),
    "tp_size": (1,),  # SGLang, as those below
    "pp_size": (1,),
    "dp_size": (1,),
}


@dataclass(frozen=True)
class EngineConfig:
    """Every switch of the engine, as it was asked for: nobody ever writes into it, and what "auto" became stands in
    `minillm.setup.Setup`. Names are vLLM's wherever vLLM has the setting; `ALIASES` lists the others.

    model: a bundled model's name ("nano-llama"), a folder, or a name on the Hugging Face Hub.
    tokenizer: where the tokenizer lies, if not with the model.
    skip_tokenizer_init: do without a tokenizer: prompts are token ids, and answers have no text.
    load_format: "auto" reads the checkpoint's weights, "dummy" makes random ones, for measuring a shape.
    dtype: of weights and cache; "auto" is the checkpoint's on a GPU, float32 on a CPU.
    device: "auto" is a GPU where there is one.
    max_model_len: context limit in tokens, prompt and output together; None is the checkpoint's own.
    page_size: tokens a page of the KV cache holds (vLLM: block_size); "auto" is 16, and 256 with
        attention_backend="flash", which wants pages of a multiple of that. ``"max_model_len"`` makes one page a whole
        request: the contiguous cache of older engines.
    num_pages: pages in the cache; None works it out from memory.
    max_cached_tokens: the same, said in tokens.
    kv_cache_memory_bytes: bytes for the cache; None works it out from ``gpu_memory_utilization``.
    gpu_memory_utilization: share of a GPU's whole memory that the engine takes, weights, activations and cache
        together, whatever others hold beside it. On a CPU it is a share of what is free, and the most that is taken.
    max_num_seqs: most requests that run at the same time.
    max_num_batched_tokens: token budget of one step.
    enable_chunked_prefill: a prompt may be computed over several steps; off, it waits for a step that takes it whole.
    long_prefill_token_threshold: most tokens of one prompt in one step; 0 is no limit but the budget.
    batching: "continuous" admits a request at any step, "static" only when nothing runs.
    prefix_cache: "radix" shares the pages of equal beginnings between requests, "none" computes each prompt anew;
        "auto" is "radix" wherever keys and values are reused at all.
    scheduling_policy: who is admitted first: "fcfs" (who came first), "lpm" (who has most in the prefix cache), or
        "priority".
    reuse_kv: off, every step forgets the cache and computes all tokens again: what a KV cache saves, seen.
    attention_backend: "auto", "naive" (as one would write it down: the oracle of the others, and slow), "reference"
        (plain torch), "blockwise" (plain torch that decodes block by block, as the GPU's kernel does: for looking),
        "cpu" (compiled, decode reads pages in place), "triton" (the same on a GPU, and for prompts too), or "flash"
        (the flash-attn package, where it is installed).
    kernels: what computes between the matrix products: "auto", "torch", "cpu" (compiled on this machine at first
        use), or "triton" (the same for GPUs; these also multiply a few rows with a matrix).
    pack_weights: on a CPU, store weights in the layout that its matrix library reads fastest.
    enforce_eager: launch every kernel of a decode step from Python instead of replaying a recorded one, which is a CUDA
        graph on a GPU and a tape on a CPU. "auto" replays on a GPU, unless a debugger is attached or somebody listens
        to the probes.
    async_scheduling: plan and launch a step while the device still works on the one before; "auto" does so on a GPU.
        On a CPU a second thread is the device: the same loop, to be looked at, and hardly faster.
    debug_checks: recount every page after every step.
    """

    model: str = "nano-llama"
    tokenizer: str | None = None
    skip_tokenizer_init: bool = False
    load_format: str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    seed: int = 0
    max_model_len: int | None = None
    page_size: int | str = "auto"
    num_pages: int | None = None
    max_cached_tokens: int | None = None
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    batching: str = "continuous"
    prefix_cache: str | None = "auto"
    scheduling_policy: str = "fcfs"
    reuse_kv: bool = True
    attention_backend: str = "auto"
    kernels: str = "auto"
    pack_weights: bool = True
    enforce_eager: bool | str = "auto"
    async_scheduling: bool | str = "auto"
    debug_checks: bool = False

    @classmethod
    def from_settings(cls, **settings: Any) -> "EngineConfig":
        """Build from keyword settings under our names, vLLM's or SGLang's. ValueError names what is not known."""
        known = {f.name for f in dataclasses.fields(cls)}
        ours: dict[str, Any] = {}
        for name, value in settings.items():
            if name in ONLY:
                if value not in ONLY[name]:
                    served = " or ".join(map(repr, ONLY[name]))
                    raise ValueError(f"{name} is {value!r}, and only {served} is served yet")
                continue
            target = ALIASES.get(name, name)
            if name in SWITCH_ALIASES:
                target, meaning = SWITCH_ALIASES[name]
                one_of(name, value, tuple(meaning))
                value = meaning[value]
            if target not in known:
                near = difflib.get_close_matches(name, [*known, *ALIASES, *SWITCH_ALIASES], n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known settings: {', '.join(sorted(known))}"
                raise ValueError(f"unknown engine setting {name!r}{hint}")
            if target in ours and ours[target] != value:
                raise ValueError(
                    f"{target!r} is given twice, as {ours[target]!r} and (by its alias {name!r}) as {value!r}"
                )
            ours[target] = value
        return cls(**ours)

    def __post_init__(self) -> None:
        one_of("dtype", self.dtype, DTYPES)
        one_of("load_format", self.load_format, ("auto", "dummy"))
        one_of("batching", self.batching, ("continuous", "static"))
        if self.prefix_cache is not None:  # which is how --set prefix_cache=none is read
            one_of("prefix_cache", self.prefix_cache, ("auto", "radix", "none"))
        one_of("scheduling_policy", self.scheduling_policy, ("fcfs", "lpm", "priority"))
        one_of("enforce_eager", self.enforce_eager, ("auto", True, False))
        one_of("async_scheduling", self.async_scheduling, ("auto", True, False))
        if self.async_scheduling is True and not self.reuse_kv:
            raise ValueError("async_scheduling is True, but with reuse_kv=False each step needs the tokens before it")
        if self.prefix_cache == "radix" and not self.reuse_kv:
            raise ValueError("prefix_cache is 'radix', but with reuse_kv=False no step finds what another computed")
        if self.scheduling_policy == "lpm" and not self.shares_prefixes:
            raise ValueError("scheduling_policy is 'lpm', which orders by cached prefixes, but prefix_cache is 'none'")
        one_of("attention_backend", self.attention_backend, ("auto", *ATTENTION_BACKENDS))
        one_of("kernels", self.kernels, ("auto", "torch", "cpu", "triton"))
        if self.page_size not in ("auto", "max_model_len"):
            at_least("page_size", self.page_size, 1, "tokens a page (16 is usual), 'auto', or 'max_model_len'")
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            at_least(name, getattr(self, name), 1)
        for name in ("max_model_len", "num_pages", "max_cached_tokens", "kv_cache_memory_bytes"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        at_least("long_prefill_token_threshold", self.long_prefill_token_threshold, 0)
        if not is_number(self.gpu_memory_utilization) or not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"gpu_memory_utilization is {self.gpu_memory_utilization!r}; it is a share, above 0 and at most 1"
            )
        if self.max_model_len is not None:
            self.check_limit(self.max_model_len)

    @property
    def shares_prefixes(self) -> bool:
        """Whether requests find what others have computed: what ``prefix_cache`` comes to."""
        return self.prefix_cache == "radix" or (self.prefix_cache == "auto" and self.reuse_kv)

    def check_limit(self, max_model_len: int) -> None:
        """ValueError for what cannot work with a context limit, once that is known."""
        whole = ""
        if not self.reuse_kv:
            whole = "reuse_kv=False"
        elif not self.enable_chunked_prefill:
            whole = "enable_chunked_prefill=False"
        if whole and self.max_num_batched_tokens < max_model_len:
            raise ValueError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}, but with {whole} a sequence of up to "
                f"max_model_len={max_model_len} tokens must fit into one step; raise the one or lower the other"
            )
