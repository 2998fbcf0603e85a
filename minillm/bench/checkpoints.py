"""Where the workloads' models come from: the bundled one's folder, or random weights of a shape, written once."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from minillm.bench.workloads import SHAPES, Workload
from minillm.hub import resolve_model


class Checkpoints:
    """Folders for the workloads' models. Random ones are written once and deleted on exit."""

    def __init__(self, bundled: str) -> None:
        self.bundled = bundled
        self.made: dict[tuple[str, str], Path] = {}

    def __enter__(self) -> "Checkpoints":
        return self

    def folder(self, workload: Workload) -> Path:
        if workload.model not in SHAPES:
            return resolve_model(self.bundled)
        key = (workload.model, workload.dtype)
        if key not in self.made:
            say(f"{workload.model}: writing random weights to a temporary folder")
            self.made[key] = Path(tempfile.mkdtemp(prefix="minillm-bench-"))
            write_random_llama(self.made[key], SHAPES[workload.model], workload.dtype)
        return self.made[key]

    def __exit__(self, *_exc: object) -> None:
        for folder in self.made.values():
            shutil.rmtree(folder, ignore_errors=True)


def write_random_llama(folder: Path, shape: dict[str, Any], dtype: str, seed: int = 0) -> None:
    """A checkpoint of this shape with random weights, and a tokenizer of single bytes, for the engine asks for one."""
    import tokenizers
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        model = LlamaForCausalLM(LlamaConfig(**shape))
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


def say(text: str) -> None:
    """Progress goes to stderr: stdout holds the results."""
    print(text, file=sys.stderr, flush=True)
