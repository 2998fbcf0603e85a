"""Shapes of known models, for random weights: how fast a model runs depends on its shape alone."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minillm.hub import resolve_model

# config.json of each, as far as it says anything about speed. The context limit is that of the measurements.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    },
    "llama-3.1-8b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
}

# What these have in common: with it, and no more, a shape is a Llama of the same sizes.
COMMON = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "tie_word_embeddings",
)  # fmt: skip


def as_llama(shape: dict[str, Any], max_model_len: int = 4096) -> dict[str, Any]:
    """The fields of transformers' LlamaConfig for a model of these sizes, whatever its own architecture is."""
    sizes = {name: shape[name] for name in COMMON if name in shape}
    return {**sizes, "max_position_embeddings": max_model_len, "bos_token_id": 0, "eos_token_id": 1}


@contextmanager
def model_settings(name: str) -> Iterator[dict[str, Any]]:
    """The engine's settings for a model by folder, Hub name or bundled name, or for a shape with random weights."""
    if name not in SHAPES:
        try:
            yield {"model": str(resolve_model(name))}
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; or a shape with random weights: {', '.join(SHAPES)}") from None
        return
    with tempfile.TemporaryDirectory(prefix="minillm-bench-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(SHAPES[name]), encoding="utf-8")
        yield {"model": folder, "load_format": "dummy", "skip_tokenizer_init": True}
