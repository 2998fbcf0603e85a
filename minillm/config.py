"""The two configurations: what the user chose (`EngineConfig`) and what the checkpoint is (`ModelConfig`)."""

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minillm.dialects import architecture, translate
from minillm.files import read_json

DTYPES = ("auto", "float32", "bfloat16", "float16")

# What other engines call our settings. Their names are accepted and mean the same.
ALIASES = {
    "block_size": "page_size",  # vLLM
    "num_gpu_blocks_override": "num_pages",  # vLLM
    "model_path": "model",  # SGLang
    "context_length": "max_model_len",  # SGLang
    "mem_fraction_static": "gpu_memory_utilization",  # SGLang
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


@dataclass
class EngineConfig:
    """Every switch of the engine. Names are vLLM's wherever vLLM has the setting; `ALIASES` lists the others.

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
    gpu_memory_utilization: share of the device's memory that weights, activations and cache may take together.
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
    attention_backend: "auto", "reference" (plain torch), "blockwise" (plain torch that decodes block by block, as the
        GPU's kernel does: for looking), "cpu" (compiled, decode reads pages in place), "triton" (the same on a GPU,
        and for prompts too), or "flash" (the flash-attn package, where it is installed).
    kernels: what computes between the matrix products: "auto", "torch", "cpu" (compiled on this machine at first
        use), or "triton" (the same for GPUs; these also multiply a few rows with a matrix).
    pack_weights: on a CPU, store weights in the layout that its matrix library reads fastest.
    enforce_eager: on a GPU, launch every kernel of a decode step from Python instead of replaying a recorded graph.
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
    prefix_cache: str = "auto"
    scheduling_policy: str = "fcfs"
    reuse_kv: bool = True
    attention_backend: str = "auto"
    kernels: str = "auto"
    pack_weights: bool = True
    enforce_eager: bool = False
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
                _one_of(name, value, tuple(meaning))
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
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("load_format", self.load_format, ("auto", "dummy"))
        _one_of("batching", self.batching, ("continuous", "static"))
        if self.prefix_cache is None:  # as --set prefix_cache=none is read
            self.prefix_cache = "none"
        _one_of("prefix_cache", self.prefix_cache, ("auto", "radix", "none"))
        _one_of("scheduling_policy", self.scheduling_policy, ("fcfs", "lpm", "priority"))
        _one_of("async_scheduling", self.async_scheduling, ("auto", True, False))
        if self.async_scheduling is True and not self.reuse_kv:
            raise ValueError("async_scheduling is True, but with reuse_kv=False each step needs the tokens before it")
        if self.prefix_cache == "auto":
            self.prefix_cache = "radix" if self.reuse_kv else "none"
        if self.prefix_cache == "radix" and not self.reuse_kv:
            raise ValueError("prefix_cache is 'radix', but with reuse_kv=False no step finds what another computed")
        if self.scheduling_policy == "lpm" and self.prefix_cache == "none":
            raise ValueError("scheduling_policy is 'lpm', which orders by cached prefixes, but prefix_cache is 'none'")
        backends = ("auto", "reference", "blockwise", "cpu", "triton", "flash")
        _one_of("attention_backend", self.attention_backend, backends)
        _one_of("kernels", self.kernels, ("auto", "torch", "cpu", "triton"))
        if self.page_size == "auto":
            self.page_size = 256 if self.attention_backend == "flash" else 16
        if self.page_size != "max_model_len":
            _at_least("page_size", self.page_size, 1, "tokens a page (16 is usual), 'auto', or 'max_model_len'")
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            _at_least(name, getattr(self, name), 1)
        for name in ("max_model_len", "num_pages", "max_cached_tokens", "kv_cache_memory_bytes"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        _at_least("long_prefill_token_threshold", self.long_prefill_token_threshold, 0)
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"gpu_memory_utilization is {self.gpu_memory_utilization}; it is a share, above 0 and at most 1"
            )
        if self.max_model_len is not None:
            self.resolve(self.max_model_len)

    def resolve(self, max_model_len: int) -> None:
        """Fix what depends on the context limit, once that is known, and refuse what cannot work with it."""
        self.max_model_len = max_model_len
        if self.page_size == "max_model_len":
            self.page_size = max_model_len
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


# Fields of config.json, or of its RoPE parameters, that are numbers.
NUMBERS = ("rms_norm_eps", "rope_theta", "rope_local_base_freq", "factor", "original_max_position_embeddings",
           "query_pre_attn_scalar", "final_logit_softcapping")  # fmt: skip


@dataclass
class RopeConfig:
    """Rotary position embedding as the checkpoint wants it: base, type, and the type's own parameters.

    share: how much of a head is turned, from its first number on; 0 is a model that knows positions otherwise.
    """

    theta: float = 10000.0
    type: str = "default"
    share: float = 1.0
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class ModelConfig:
    """A checkpoint's shape, under Hugging Face's names (dialects.py translates what some call otherwise).

    layer_windows: for each layer, how many tokens back it sees, itself included; None is all, empty is None for all.
    local_rope: the layers with a window turn by this one, where they have their own.
    attention_scale: what scores are multiplied with; None is ``head_dim ** -0.5``.
    norm_offset: what is added to a norm's stored weight.
    final_logit_softcapping: logits become ``cap * tanh(logits / cap)``; None is no cap.
    raw: the whole of config.json. Where a field concerns one architecture alone, its file reads it here.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    rope: RopeConfig = field(default_factory=RopeConfig)
    local_rope: RopeConfig | None = None
    layer_windows: tuple[int | None, ...] = ()
    attention_scale: float | None = None
    norm_offset: float = 0.0
    final_logit_softcapping: float | None = None
    dtype: str = "float32"
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_folder(cls, folder: Path) -> "ModelConfig":
        """Read config.json, and the end tokens of generation_config.json where there is one (it wins)."""
        path = folder / "config.json"
        try:
            raw = read_json(path)
        except FileNotFoundError:
            raise FileNotFoundError(f"{folder} holds no config.json, so it is no model checkpoint") from None
        generation = folder / "generation_config.json"
        if generation.exists():
            raw = {**raw, **{k: v for k, v in read_json(generation).items() if k == "eos_token_id"}}
        return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "ModelConfig":
        """Understand a config.json of transformers v4 or v5. ValueError names a field that is missing, or that no model
        here can do as it says."""
        needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        for name in (*needed, "num_key_value_heads", "head_dim", "max_position_embeddings", "ffn_dim"):
            if raw.get(name) is not None:
                _at_least(f"config.json: {name}", raw[name], 1)
        _check_kinds(raw)
        whole, raw = raw, translate(raw)
        if missing := [name for name in needed if raw.get(name) is None]:
            raise ValueError(f"config.json lacks {', '.join(missing)}; a decoder-only language model's config has them")
        heads = raw["num_attention_heads"]
        kv_heads, head_dim = raw.get("num_key_value_heads") or heads, raw.get("head_dim") or raw["hidden_size"] // heads
        if heads % kv_heads:
            raise ValueError(
                f"config.json: {heads} num_attention_heads cannot share {kv_heads} num_key_value_heads evenly"
            )
        rope, local_rope = _rope_config(raw), raw.get("local_rope_parameters")
        if rope.share and (head_dim % 2 or int(head_dim * rope.share) % 2):
            part = f" and partial_rotary_factor {rope.share}" if rope.share != 1 else ""
            raise ValueError(
                f"config.json: head_dim is {head_dim}{part}, but rotary positions turn pairs, so it must be even"
            )
        for window in raw.get("layer_windows", ()):
            if window is not None:
                _at_least("config.json: sliding_window", window, 1)
        eos = raw.get("eos_token_id")
        return cls(
            architecture=architecture(raw),
            **{name: raw[name] for name in needed},
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            max_position_embeddings=raw["max_position_embeddings"],
            rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
            hidden_act=raw.get("hidden_act", "silu"),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            attention_bias=bool(raw.get("attention_bias", False)),
            mlp_bias=bool(raw.get("mlp_bias", False)),
            rope=rope,
            local_rope=_rope_config({"rope_parameters": local_rope}) if local_rope else None,
            layer_windows=raw.get("layer_windows", ()),
            attention_scale=raw.get("attention_scale"),
            norm_offset=raw.get("norm_offset", 0.0),
            final_logit_softcapping=raw.get("final_logit_softcapping"),
            dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch."),
            eos_token_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
            bos_token_id=raw.get("bos_token_id"),
            raw=whole,
        )

    @property
    def context_limit(self) -> int:
        """The most tokens of prompt and answer together. With YaRN or linear scaling these are the original positions
        times the factor, where ``max_position_embeddings`` does not count that in already (as Gemma's does)."""
        if self.rope.type not in ("linear", "yarn") or self.local_rope is not None:
            return self.max_position_embeddings
        given = self.rope.parameters
        original = given.get("original_max_position_embeddings") or self.max_position_embeddings
        return max(self.max_position_embeddings, int(original * (given.get("factor") or 1)))

    def window(self, layer: int) -> int | None:
        """How many tokens back this layer sees, itself included; None is all."""
        return self.layer_windows[layer] if self.layer_windows else None

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """``2 * L * Hkv * D * itemsize``: the keys and values of one token in all layers."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * itemsize


def _rope_config(raw: dict[str, Any]) -> RopeConfig:
    """transformers v5 keeps everything in ``rope_parameters``; v4 has ``rope_theta`` beside ``rope_scaling``."""
    parameters = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
    parameters.pop("type", None)
    theta = parameters.pop("rope_theta", None) or raw.get("rope_theta") or 10000.0
    share = parameters.pop("partial_rotary_factor", raw.get("partial_rotary_factor"))
    return RopeConfig(float(theta), kind, 1.0 if share is None else float(share), parameters)


def _check_kinds(raw: dict[str, Any]) -> None:
    """Refuse fields of the wrong kind: text that looks like a number or a switch would be misread."""
    ropes = []
    for name in ("rope_parameters", "rope_scaling"):
        if not isinstance(raw.get(name) or {}, dict):
            raise ValueError(f"config.json: {name} is {raw[name]!r}; it must be an object, or null")
        rope = raw.get(name) or {}
        ropes += [rope, *(part for part in rope.values() if isinstance(part, dict))]  # one for each kind of layer
    for fields in (raw, *ropes):
        for name in NUMBERS:
            value = fields.get(name)
            if value is not None and not _is_number(value):
                raise ValueError(f"config.json: {name} is {value!r}; it must be a number")
        share = fields.get("partial_rotary_factor")
        if share is not None and not (_is_number(share) and 0 < share <= 1):
            raise ValueError(
                f"config.json: partial_rotary_factor is {share!r}; it must be a share, above 0 and at most 1"
            )
    for name in ("tie_word_embeddings", "attention_bias", "mlp_bias", "enable_bias", "use_sliding_window"):
        if not isinstance(raw.get(name), bool | None):
            raise ValueError(f"config.json: {name} is {raw[name]!r}; it must be true or false")
    kinds = raw.get("layer_types")
    if kinds is not None and not (isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)):
        raise ValueError(f"config.json: layer_types is {kinds!r}; it must be a list of names, one for each layer")
    eos = raw.get("eos_token_id")
    for id in eos if isinstance(eos, list) else () if eos is None else (eos,):
        _at_least("config.json: eos_token_id", id, 0)
    _at_least("config.json: max_window_layers", raw.get("max_window_layers") or 0, 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_of(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, choices))}")


def _at_least(name: str, value: Any, least: int, meaning: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(
            f"{name} is {value!r}; it must be a whole number of at least {least}{': ' + meaning if meaning else ''}"
        )
