"""Where the workloads' models come from: the bundled one's folder, or random weights of a shape, written once."""

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from minillm.bench.shapes import SHAPES, as_llama
from minillm.bench.workloads import Workload
from minillm.hub import resolve_model


class Checkpoints:
    """Folders for the workloads' models. Random ones are written once and deleted on exit, however it comes."""

    def __init__(self, bundled: str) -> None:
        self.bundled = bundled
        self.made: dict[tuple[str, str], Path] = {}
        self._until_exit = ExitStack()

    def __enter__(self) -> "Checkpoints":
        self._until_exit.enter_context(orderly_end())
        return self

    def folder(self, workload: Workload) -> Path:
        if workload.model not in SHAPES:
            return resolve_model(self.bundled)
        key = (workload.model, workload.dtype)
        if key not in self.made:
            say(f"{workload.model}: writing random weights to a temporary folder")
            self.made[key] = Path(tempfile.mkdtemp(prefix="minillm-bench-"))
            write_random_llama(self.made[key], as_llama(SHAPES[workload.model]), workload.dtype)
        return self.made[key]

    def __exit__(self, *_exc: object) -> None:
        for folder in self.made.values():
            shutil.rmtree(folder, ignore_errors=True)
        self._until_exit.close()


@contextmanager
def orderly_end() -> Iterator[None]:
    """Inside, a program that is told to end (``kill``, a closed terminal) leaves by the way of all its exits.

    Without this the system ends it on the spot, and what it has in temporary folders, a gigabyte or two, stays there.
    """

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)  # what a shell reports for a program that the signal ended

    kinds = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # no SIGHUP on Windows
    ours = [kind for kind in kinds if signal.getsignal(kind) == signal.SIG_DFL]  # `nohup` ignores SIGHUP: so do we
    for kind in ours:
        signal.signal(kind, leave)
    try:
        yield
    finally:
        for kind in ours:
            signal.signal(kind, signal.SIG_DFL)


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
