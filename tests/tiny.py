"""Tiny random checkpoints, made by transformers, whose own model is then the oracle."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel

# Sizes that share no factor they need not share: 6 heads over 2, head_dim that is not hidden / heads, an odd
# vocabulary.
LLAMA = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
# What each other architecture has beside them, under its transformers model type; it has nothing that is UNKNOWN to it.
UNKNOWN = object()
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"head_dim": UNKNOWN},
    "qwen3": {},
    "mistral": {"sliding_window": None},
    "phi3": {"head_dim": UNKNOWN, "pad_token_id": 0},
    "gemma3_text": {
        "sliding_window": 13,
        "sliding_window_pattern": 3,
        "query_pre_attn_scalar": 11,
        "tie_word_embeddings": True,
    },
    "mixtral": {"intermediate_size": 36, "num_local_experts": 5, "num_experts_per_tok": 3},
    "qwen3_moe": {
        "moe_intermediate_size": 20,
        "num_experts": 7,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
    },
    "nanochat": {"head_dim": UNKNOWN, "pad_token_id": 0},
    "opt": {
        "ffn_dim": 80,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        **dict.fromkeys(("intermediate_size", "num_key_value_heads", "head_dim", "rms_norm_eps"), UNKNOWN),
    },
}
TEXT_VOCAB = 258  # the vocabulary with which make_tokenizer knows every byte: two special tokens and 256

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def make_llama(
    folder: Path, seed: int = 0, max_shard_size: str | None = None, dtype: torch.dtype = torch.float32, **overrides: Any
) -> "LlamaForCausalLM":
    """Write a random Llama with a tokenizer to ``folder``; the Hugging Face model that was written."""
    return make_model(folder, "llama", seed, max_shard_size, dtype, **overrides)


def make_model(
    folder: Path,
    kind: str,
    seed: int = 0,
    max_shard_size: str | None = None,
    dtype: torch.dtype = torch.float32,
    **overrides: Any,
) -> Any:
    """Write a random model of transformers' type ``kind`` with a tokenizer; the Hugging Face model that was written.

    Overrides are fields of its config.
    """
    torch.manual_seed(seed)
    fields = {**LLAMA, **ARCHITECTURES[kind], **overrides}
    from transformers import (  # here: they take longer to load than a checkpoint's tests
        AutoConfig,
        AutoModelForCausalLM,
    )

    config = AutoConfig.for_model(kind, **{name: value for name, value in fields.items() if value is not UNKNOWN})
    model = AutoModelForCausalLM.from_config(config).eval()
    randomize(model)
    model = model.to(dtype)
    model.save_pretrained(folder, **({"max_shard_size": max_shard_size} if max_shard_size else {}))
    make_tokenizer(folder, config.vocab_size)
    return model


@torch.no_grad()
def randomize(model: "PreTrainedModel") -> None:
    """Numbers with which every part of the model matters."""
    for name, parameter in model.named_parameters():
        # Norms of exactly one and biases of zero would hide mistakes. The sizes of the others are such that
        # attention and position matter as much as the last token does: greedy text then varies instead of going in
        # circles. (Even larger ones amplify rounding: float32 itself is then further than 1e-4 from float64.)
        if "norm" in name and name.endswith("weight"):
            parameter.uniform_(0.5, 1.5)
            if "Gemma" in type(model).__name__:
                parameter.sub_(1)  # there 1 is added
        elif parameter.dim() == 1:
            parameter.normal_(0, 0.2)
        elif "embed_" in name or "lm_head" in name:
            # OPT may have no norm before the first attention; Gemma multiplies by sqrt(hidden).
            usual = {"OPTForCausalLM": 1.0, "Gemma3ForCausalLM": 0.05}.get(type(model).__name__, 0.3)
            parameter.normal_(0, 0.2 if "lm_head" in name else usual)
        else:
            parameter.normal_(0, 1.5 / math.sqrt(parameter.shape[-1]))


def make_tokenizer(folder: Path, vocab_size: int = TEXT_VOCAB) -> None:
    """A tokenizer whose tokens are single bytes, of as many as the vocabulary holds, and a chat template."""
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocab = {"<s>": 0, "</s>": 1} | {char: i + 2 for i, char in enumerate(sorted(alphabet)[: vocab_size - 2])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_v4_config(folder: Path) -> None:
    """Rewrite config.json as transformers v4 wrote it: rope_theta beside rope_scaling, torch_dtype, no layer_types."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config.pop("rope_parameters", None) or {}
    kinds = config.pop("layer_types", None)
    if "full_attention" in rope:  # Gemma 3
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
        config["sliding_window_pattern"] = kinds.index("full_attention") + 1
    if rope:
        config["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; one changed to None is taken out."""
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}), encoding="utf-8")


@torch.no_grad()
def hf_logits(model: "LlamaForCausalLM", ids: list[int]) -> Tensor:
    """``[len(ids), V]``: after each token, the logits of the next."""
    return model(torch.tensor([ids])).logits[0].float()


@torch.no_grad()
def hf_greedy(model: "LlamaForCausalLM", prompt: list[int], count: int, stop: tuple[int, ...] = ()) -> list[int]:
    """The next greedy tokens: ``count`` of them, or up to and with the first of ``stop``."""
    ids = list(prompt)
    past = None
    while len(ids) < len(prompt) + count and (len(ids) == len(prompt) or ids[-1] not in stop):
        out = model(torch.tensor([ids if past is None else ids[-1:]]), past_key_values=past, use_cache=True)
        past = out.past_key_values
        ids.append(int(out.logits[0, -1].argmax()))
    return ids[len(prompt) :]


@dataclass
class Oracle:
    """A checkpoint and the Hugging Face model that it was written from."""

    folder: Path
    model: "LlamaForCausalLM"
    _greedy: dict[Any, list[int]] = field(default_factory=dict)

    def greedy(self, prompt: list[int], count: int, stop: tuple[int, ...] = ()) -> list[int]:
        """`hf_greedy`, worked out once for each question."""
        key = tuple(prompt), count, stop
        if key not in self._greedy:
            self._greedy[key] = hf_greedy(self.model, prompt, count, stop)
        return self._greedy[key]
