"""The work that is measured: models by shape, requests by their lengths. Names and numbers stay as they are."""

import random
from dataclasses import dataclass

BUNDLED = "nano-llama"


@dataclass(frozen=True)
class Workload:
    """``requests`` prompts of ``prompt_len`` random tokens, ``output_len`` greedy tokens each, whatever they are.

    model: `BUNDLED`, or one of shapes.py, as a Llama with random weights: the measured ones were all made so.
    """

    name: str
    model: str
    dtype: str
    requests: int
    prompt_len: int
    output_len: int

    @property
    def num_generated(self) -> int:
        return self.requests * self.output_len

    def prompts(self, vocab_size: int, seed: int = 0) -> list[list[int]]:
        """The same for everyone who asks with the same seed. The first ids are left out: they are special tokens."""
        choose = random.Random(seed)
        first = min(16, vocab_size // 2)
        return [[choose.randrange(first, vocab_size) for _ in range(self.prompt_len)] for _ in range(self.requests)]


CPU = (
    Workload("nano-1", BUNDLED, "float32", requests=1, prompt_len=64, output_len=128),
    Workload("nano-16", BUNDLED, "float32", requests=16, prompt_len=64, output_len=128),
    Workload("qwen3-0.6b-1", "qwen3-0.6b", "bfloat16", requests=1, prompt_len=64, output_len=24),
    Workload("qwen3-0.6b-8", "qwen3-0.6b", "bfloat16", requests=8, prompt_len=64, output_len=24),
)
CPU_QUICK = (
    Workload("nano-1", BUNDLED, "float32", requests=1, prompt_len=64, output_len=32),
    Workload("nano-16", BUNDLED, "float32", requests=16, prompt_len=64, output_len=32),
)


def choose(workloads: tuple[Workload, ...], names: list[str]) -> list[Workload]:
    """Those called so, or all if none are named. ValueError lists the names."""
    known = [workload.name for workload in workloads]
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"there is no workload {wrong[0]!r} here; there are {', '.join(known)}")
    return [workload for workload in workloads if not names or workload.name in names]
