"""The architecture of nano-llama, and its weights in the form that ships."""

import json
from pathlib import Path

import torch
from nano.tokenizer import BOS_ID, END_ID, MAX_LENGTH, PAD_ID, VOCAB_SIZE
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

# All sizes divide by 4 (tensor parallelism), all inputs by 128 and outputs by 64 (Marlin's tiles).
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": MAX_LENGTH,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "use_cache": True,
    "bos_token_id": BOS_ID,
    "eos_token_id": END_ID,
    "pad_token_id": PAD_ID,
    # The two generations of transformers look in different places for the same settings; each ignores the other's.
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "torch_dtype": "bfloat16",
    "dtype": "bfloat16",
}
GENERATION_CONFIG = {
    "bos_token_id": BOS_ID,
    "eos_token_id": END_ID,
    "pad_token_id": PAD_ID,
    "do_sample": False,
    "max_new_tokens": 256,
}


def causal_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, **_: object
) -> tuple[torch.Tensor, None]:
    """Attention for training: always causal, never a mask, so that the fast kernel is always taken.

    query: [B, H, T, D], key and value: [B, Hkv, T, D] -> [B, T, H, D]
    """
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2), None


def build_model(dropout: float) -> LlamaForCausalLM:
    """A fresh model, with dropout after the embedding and after each block: what regularises has no place in Llama."""
    AttentionInterface.register("causal", causal_attention)
    settings = {name: value for name, value in CONFIG.items() if name not in ("torch_dtype", "dtype", "rope_scaling")}
    model = LlamaForCausalLM(LlamaConfig(**settings, attn_implementation="causal"))

    def drop(module: nn.Module, _inputs: tuple, out: torch.Tensor) -> torch.Tensor:
        return F.dropout(out, dropout, module.training)

    residual_depth = (2 * CONFIG["num_hidden_layers"]) ** -0.5
    for name, module in model.named_modules():
        if dropout and name.endswith(("embed_tokens", "o_proj", "down_proj")):
            module.register_forward_hook(drop)
        if name.endswith(("o_proj", "down_proj")):  # what is added to the residual stream begins small
            with torch.no_grad():
                module.weight.mul_(residual_depth)
    return model


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors: bf16, without the tied lm_head."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(GENERATION_CONFIG, indent=2) + "\n")
    weights = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors gives it to its owner alone
