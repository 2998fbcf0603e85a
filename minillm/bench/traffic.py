"""Requests by name, for measuring a server's engine: the same ones everywhere, so that figures can be compared."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from minillm.request import SamplingParams


@dataclass(frozen=True)
class Traffic:
    """Prompts of random token ids, and how many tokens each is to get, whatever they are."""

    name: str
    prompts: list[list[int]]
    output_lens: list[int]

    @property
    def num_prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    @property
    def num_generated(self) -> int:
        return sum(self.output_lens)

    @property
    def tokens_looked_at(self) -> int:
        """Tokens whose keys and values the decode steps read, added up over all of them."""
        pairs = zip(self.prompts, self.output_lens)
        return sum((n - 1) * len(prompt) + n * (n - 1) // 2 for prompt, n in pairs)

    def params(self) -> list[SamplingParams]:
        return [SamplingParams(temperature=0.6, max_tokens=n, ignore_eos=True) for n in self.output_lens]

    def within(self, vocab_size: int) -> "Traffic":
        """The same for a model of a smaller vocabulary: ids beyond it come round again."""
        prompts = [[token % vocab_size for token in prompt] for prompt in self.prompts]
        return Traffic(self.name, prompts, self.output_lens)


def mixed(requests: int = 256, shortest: int = 100, longest: int = 1024) -> Traffic:
    """nano-vllm's benchmark: prompts and answers of 100 to 1,024 tokens, all there from the beginning."""
    draw = random.Random(0)
    prompts = [[draw.randint(0, 10000) for _ in range(draw.randint(shortest, longest))] for _ in range(requests)]
    return Traffic(f"mixed{requests}", prompts, [draw.randint(shortest, longest) for _ in range(requests)])


def same(name: str, requests: int, prompt_len: int, output_len: int) -> Traffic:
    """All of one length."""
    draw = random.Random(0)
    prompts = [[draw.randint(0, 10000) for _ in range(prompt_len)] for _ in range(requests)]
    return Traffic(name, prompts, [output_len] * requests)


TRAFFIC: dict[str, Callable[[], Traffic]] = {
    "mixed256": mixed,
    "single": lambda: same("single", 1, 128, 512),
    "batch64": lambda: same("batch64", 64, 128, 512),
    "short1": lambda: same("short1", 1, 128, 256),
    "short16": lambda: same("short16", 16, 128, 256),
    "short64": lambda: same("short64", 64, 128, 256),
    "long1": lambda: same("long1", 1, 32_000, 128),
    "quick": lambda: same("quick", 4, 16, 8),
}


def traffic(name: str) -> Traffic:
    """ValueError lists the names."""
    if name not in TRAFFIC:
        raise ValueError(f"there is no workload {name!r}; there are {', '.join(TRAFFIC)}")
    return TRAFFIC[name]()
