"""What each architecture's config.json calls things, said in Llama's words.

Most fields have one name everywhere, and `ModelConfig` reads them. Here stands the rest, one function an architecture:
fields under another name, what a field that is left out means (transformers' own default), and which layers have a
sliding window. What cannot be served is refused, with the field's name.
"""

from collections.abc import Callable
from typing import Any

Raw = dict[str, Any]
KINDS = ("full_attention", "sliding_attention")  # what a layer's entry in layer_types may be


def translate(raw: Raw) -> Raw:
    """``raw`` with what its architecture says differently added under the common names."""
    name = architecture(raw)
    limit = raw.get("max_position_embeddings")
    raw = {**raw, "max_position_embeddings": LONGEST.get(name, 2048) if limit is None else limit}
    dialect = DIALECTS.get(name)
    return {**raw, **dialect(raw)} if dialect else raw


def architecture(raw: Raw) -> str:
    """The class that the checkpoint was made for, or "unknown"."""
    return str((raw.get("architectures") or ["unknown"])[0])


def llama(raw: Raw) -> Raw:
    """No layer has a window, whatever ``sliding_window`` says."""
    return {"layer_windows": one_window(raw, None)}


def mistral(raw: Raw) -> Raw:
    """A window for all layers, unless it is null."""
    window = raw.get("sliding_window", 4096)
    return {"attention_bias": False, "mlp_bias": False, "layer_windows": one_window(raw, window)}


def mixtral(raw: Raw) -> Raw:
    """As Mistral, but for what is left out: no window, and a larger base."""
    windows = one_window(raw, raw.get("sliding_window"))
    base = raw.get("rope_theta") or 1_000_000.0
    return {"attention_bias": False, "mlp_bias": False, "layer_windows": windows, "rope_theta": base}


def qwen2(raw: Raw) -> Raw:
    """Biases for query, key and value alone; a window, if it is switched on, from layer ``max_window_layers`` on."""
    return {"attention_bias": True, "mlp_bias": False, "layer_windows": _late_windows(raw)}


def qwen3(raw: Raw) -> Raw:
    """The windows of Qwen2, the biases of Llama, and a head size of its own."""
    return {"head_dim": raw.get("head_dim") or 128, "mlp_bias": False, "layer_windows": _late_windows(raw)}


def qwen3_moe(raw: Raw) -> Raw:
    """Its head size is Llama's where it is left out; a window, if it is switched on, is for all layers."""
    window = raw.get("sliding_window", 4096) if raw.get("use_sliding_window") else None
    return {"mlp_bias": False, "layer_windows": one_window(raw, window)}


def phi3(raw: Raw) -> Raw:
    """As Llama, with a window for all layers where there is one.

    With LongRoPE the context ends where the model's original one did: beyond, all positions would turn otherwise, and
    what is cached would be wrong.
    """
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    limit = raw["max_position_embeddings"]
    if (rope.get("rope_type") or rope.get("type")) in ("longrope", "su", "yarn"):  # the older names of one thing
        original = raw.get("original_max_position_embeddings") or 4096
        factor = rope.get("factor") or limit / original
        rope |= {"rope_type": "longrope", "original_max_position_embeddings": original, "factor": factor}
        limit = min(limit, original)
    return {
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": raw.get("rms_norm_eps", 1e-5),
        "max_position_embeddings": limit,
        "rope_parameters": rope,
        "layer_windows": one_window(raw, raw.get("sliding_window")),
    }


def gemma3(raw: Raw) -> Raw:
    """Norm weights around zero, scores scaled by a number of its own, two kinds of layers with a RoPE each."""
    if raw.get("attn_logit_softcapping") is not None:
        raise ValueError(
            f"config.json: attn_logit_softcapping is {raw['attn_logit_softcapping']}; attention here knows no cap on "
            "its scores, and Gemma 3 has none: only null can be served"
        )
    if raw.get("use_bidirectional_attention"):
        raise ValueError("config.json: use_bidirectional_attention is on; only causal models can generate text")
    ropes = raw.get("rope_parameters") or {}
    pattern = raw.get("sliding_window_pattern") or 6
    layers = range(raw.get("num_hidden_layers") or 0)
    kinds = raw.get("layer_types") or [KINDS[(layer + 1) % pattern != 0] for layer in layers]
    return {
        "norm_offset": 1.0,
        "hidden_act": raw.get("hidden_activation") or "gelu_pytorch_tanh",
        "head_dim": raw.get("head_dim") or 256,
        "mlp_bias": False,
        "attention_scale": (raw.get("query_pre_attn_scalar") or 256) ** -0.5,
        "tie_word_embeddings": raw.get("tie_word_embeddings", True),
        "layer_windows": windows_of(raw, kinds, raw.get("sliding_window", 4096)),
        # v5: one dict for each kind of layer; v4: rope_scaling is for the full ones alone.
        "rope_parameters": ropes.get("full_attention") or raw.get("rope_scaling") or {},
        "rope_theta": raw.get("rope_theta") or 1_000_000.0,
        "local_rope_parameters": {
            "rope_theta": raw.get("rope_local_base_freq") or 10_000.0,
            **(ropes.get("sliding_attention") or {}),
        },
    }


def nanochat(raw: Raw) -> Raw:
    """Its own activation, and a cap on the logits. Heads are normalised after they are turned, which would undo a RoPE
    that scales them as well."""
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(f"config.json: rope_type is {kind!r}; nanochat can be served with default, linear or llama3")
    return {
        "hidden_act": raw.get("hidden_act") or "relu2",
        "mlp_bias": False,
        "final_logit_softcapping": raw.get("final_logit_softcapping", 15.0),
        "layer_windows": one_window(raw, None),
    }


def opt(raw: Raw) -> Raw:
    """Other names, learned positions instead of turned heads, biases everywhere."""
    if raw.get("ffn_dim") is None:
        raise ValueError("config.json lacks ffn_dim, the size of OPT's feed-forward network")
    bias = bool(raw.get("enable_bias", True))
    return {
        "intermediate_size": raw["ffn_dim"],
        "hidden_act": raw.get("activation_function", "relu"),
        "attention_bias": bias,
        "mlp_bias": bias,
        "num_key_value_heads": None,
        "head_dim": None,
        "tie_word_embeddings": raw.get("tie_word_embeddings", True),
        "rope_parameters": {"partial_rotary_factor": 0.0},
    }


DIALECTS: dict[str, Callable[[Raw], Raw]] = {
    "Gemma3ForCausalLM": gemma3,
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "MixtralForCausalLM": mixtral,
    "NanoChatForCausalLM": nanochat,
    "OPTForCausalLM": opt,
    "Phi3ForCausalLM": phi3,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
    "Qwen3MoeForCausalLM": qwen3_moe,
}

# max_position_embeddings where a config leaves it out.
LONGEST = {
    "Gemma3ForCausalLM": 131072,
    "MistralForCausalLM": 131072,
    "MixtralForCausalLM": 131072,
    "Phi3ForCausalLM": 4096,
    "Qwen2ForCausalLM": 32768,
    "Qwen3ForCausalLM": 32768,
    "Qwen3MoeForCausalLM": 32768,
}


def one_window(raw: Raw, window: Any) -> tuple[Any, ...]:
    """The same for all layers: an architecture whose code looks at ``sliding_window`` alone."""
    kinds = raw.get("layer_types")
    wanted = KINDS[window is not None]
    if kinds and set(kinds) != {wanted}:
        raise ValueError(
            f"config.json: layer_types has {', '.join(sorted(map(str, set(kinds))))}, but with sliding_window={window} "
            f"every layer of {architecture(raw)} is {wanted}; take layer_types out, or use an architecture that mixes"
        )
    return (window,) * (raw.get("num_hidden_layers") or 0)


def _late_windows(raw: Raw) -> tuple[Any, ...]:
    """Qwen's: ``layer_types`` if it is there, else all from layer ``max_window_layers`` on."""
    window = raw.get("sliding_window", 4096) if raw.get("use_sliding_window") else None
    layers, first = raw.get("num_hidden_layers") or 0, raw.get("max_window_layers", 28)
    kinds = raw.get("layer_types") or [KINDS[window is not None and layer >= first] for layer in range(layers)]
    return windows_of(raw, kinds, window)


def windows_of(raw: Raw, kinds: list[str], window: Any) -> tuple[Any, ...]:
    """For each layer its window, or None for a layer that sees everything."""
    layers = raw.get("num_hidden_layers") or 0
    if len(kinds) != layers:
        raise ValueError(f"config.json: layer_types names {len(kinds)} layers, num_hidden_layers is {layers}")
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(
            f"config.json: layer_types has {', '.join(sorted(map(repr, unknown)))}; supported: {', '.join(KINDS)}"
        )
    if window is None and KINDS[1] in kinds:
        raise ValueError(
            f"config.json: layer_types has {KINDS[1]}, but there is no window for it: sliding_window is "
            f"{raw.get('sliding_window')}"
            + (", use_sliding_window is off" if not raw.get("use_sliding_window", True) else "")
        )
    return tuple(window if kind == KINDS[1] else None for kind in kinds)
