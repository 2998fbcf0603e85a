"""Lesson 19's checkpoint: a small nanochat with random weights, written by Hugging Face's own code, which then is the
judge of ours."""

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from minillm.hub import resolve_model
from minillm.model_config import ModelConfig
from minillm.models import registry
from minillm.text.tokenizer import Tokenizer

ARCHITECTURE = "NanoChatForCausalLM"
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def write_checkpoint(folder: Path, tokenizer_of: str = "nano-llama") -> None:
    """Write the checkpoint to ``folder``, with another model's tokenizer. Its random numbers are always the same."""
    import transformers  # here: it takes long, and who only forgets an architecture needs none

    if not hasattr(transformers, "NanoChatConfig"):
        raise ValueError(
            f"transformers {transformers.__version__} has no nanochat, which our model is held against; "
            "a newer one has: pip install -U transformers"
        )
    source = resolve_model(tokenizer_of)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, folder / name)
    config = transformers.NanoChatConfig(
        vocab_size=max(Tokenizer(source).vocab_size, 64), bos_token_id=1, eos_token_id=2, pad_token_id=0, **SIZES
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(19)
        model = transformers.NanoChatForCausalLM(config)
        for name, parameter in model.named_parameters():
            # Large enough for attention and position to matter as much as the last token does.
            parameter.normal_(0, 0.2 if "lm_head" in name else 1.5 / parameter.shape[-1] ** 0.5)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)


@cache
def made() -> str:
    """The folder of such a checkpoint, written once and gone when the program ends."""
    folder = tempfile.mkdtemp(prefix="minillm-nanochat-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_checkpoint(Path(folder))
    return folder


@contextmanager
def forgotten(architecture: str = ARCHITECTURE) -> Iterator[None]:
    """Inside, the engine has no class for this architecture but what is registered there. At the end it has its own."""
    own = registry.model_class(ModelConfig(architecture, 1, 1, 1, 1, 1, 1, 1, 1))
    del registry._MODELS[architecture]
    try:
        yield
    finally:
        registry._MODELS[architecture] = own
