"""Tiny random checkpoints, made by transformers, whose own model is then the oracle."""

from pathlib import Path
from typing import Any

import tokenizers
import torch
from transformers import LlamaConfig, LlamaForCausalLM

# Sizes that share no factor they need not share: 6 heads over 2, head_dim that is not hidden / heads, an odd vocabulary.
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


def make_llama(
    folder: Path, seed: int = 0, max_shard_size: str | None = None, dtype: torch.dtype = torch.float32, **overrides: Any
) -> LlamaForCausalLM:
    """Write a random Llama with a tokenizer to ``folder``; the Hugging Face model that was written."""
    torch.manual_seed(seed)
    config = LlamaConfig(**{**LLAMA, **overrides})
    model = LlamaForCausalLM(config).eval().to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Norms of exactly one and biases of zero would hide mistakes; larger weights make the choices of tokens clear.
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0, 0.1 if parameter.dim() > 1 else 0.2)
    model.save_pretrained(folder, **({"max_shard_size": max_shard_size} if max_shard_size else {}))
    make_tokenizer(folder, config.vocab_size)
    return model


def make_tokenizer(folder: Path, vocab_size: int) -> None:
    """A tokenizer whose tokens are single bytes: token i is byte i + 30, of as many as the vocabulary holds."""
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocab = {"<s>": 0, "</s>": 1} | {char: i + 2 for i, char in enumerate(sorted(alphabet)[: vocab_size - 2])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))


@torch.no_grad()
def hf_greedy(model: LlamaForCausalLM, prompt: list[int], count: int) -> list[int]:
    """The next ``count`` greedy tokens, without a cache: one forward over everything for each."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]
