"""A fresh model, and its weights in the form that ships."""

import json
from pathlib import Path

import torch
from nano.models import NanoModel
from nano.moe import make_dense, per_expert
from nano.tokenizer import BOS_ID, END_ID, PAD_ID
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel

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


def build_model(nano: NanoModel, dropout: float) -> PreTrainedModel:
    """A fresh model, with dropout after the embedding and after each block: what regularises is in no architecture."""
    AttentionInterface.register("causal", causal_attention)
    settings = {
        name: value for name, value in nano.config.items() if name not in ("torch_dtype", "dtype", "rope_scaling")
    }
    model = nano.model_class(nano.config_class(**settings, attn_implementation="causal"))
    if nano.has_experts:
        make_dense(model)

    def drop(module: nn.Module, _inputs: tuple, out: torch.Tensor) -> torch.Tensor:
        return F.dropout(out, dropout, module.training)

    for name, module in model.named_modules():
        if dropout and name.endswith(("embed_tokens", "o_proj", ".mlp")):
            module.register_forward_hook(drop)
    residual_depth = (2 * nano.config["num_hidden_layers"]) ** -0.5
    for name, parameter in model.named_parameters():
        if name.removesuffix(".weight").endswith(("o_proj", "down_proj")):
            with torch.no_grad():  # what is added to the residual stream begins small
                parameter.mul_(residual_depth)
    return model


def save_model(nano: NanoModel, model: PreTrainedModel, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors: bf16, without the tied lm_head."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(nano.config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(GENERATION_CONFIG, indent=2) + "\n")
    weights = {
        file_name: part.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
        for file_name, part in per_expert(name, tensor).items()
    }
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors gives it to its owner alone
