"""Requests by name, for measuring a server's engine: the same ones everywhere, so that figures can be compared."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from minillm.request import SamplingParams

TEMPERATURE = 0.6  # so that sampling has its share of the work


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
    def longest(self) -> int:
        """Tokens of the longest request, prompt and answer together."""
        return max(len(prompt) + n for prompt, n in zip(self.prompts, self.output_lens))

    @property
    def tokens_looked_at(self) -> int:
        """Tokens whose keys and values the decode steps read, added up over all of them."""
        pairs = zip(self.prompts, self.output_lens)
        return sum((n - 1) * len(prompt) + n * (n - 1) // 2 for prompt, n in pairs)

    def params(self, temperature: float = TEMPERATURE) -> list[SamplingParams]:
        return [SamplingParams(temperature=temperature, max_tokens=n, ignore_eos=True) for n in self.output_lens]

    def within(self, vocab_size: int) -> "Traffic":
        """The same for a model of a smaller vocabulary: ids beyond it come round again."""
        prompts = [[token % vocab_size for token in prompt] for prompt in self.prompts]
        return Traffic(self.name, prompts, self.output_lens)


def mixed(requests: int = 256, shortest: int = 100, longest: int = 1024) -> Traffic:
    """nano-vllm's benchmark: prompts and answers of 100 to 1,024 tokens, all there from the beginning."""
    draw = random.Random(0)
    prompts = [[draw.randint(0, 10000) for _ in range(draw.randint(shortest, longest))] for _ in range(requests)]
    return Traffic(f"mixed{requests}", prompts, [draw.randint(shortest, longest) for _ in range(requests)])


def talk(requests: int, systems: int, system_len: int, question: int, answer: int) -> Traffic:
    """Questions after one of a few long system prompts. ``question`` and ``answer``: the longest; the shortest has a
    quarter of it. So there is something in it for every part of the engine: prompts that begin alike, answers that
    end at different times, long prompts between short steps."""
    draw = random.Random(0)

    def text(length: int) -> list[int]:
        return [draw.randint(0, 10000) for _ in range(length)]

    begin = [text(system_len) for _ in range(systems)]
    prompts = [begin[i % systems] + text(draw.randint(question // 4, question)) for i in range(requests)]
    return Traffic(f"talk{requests}", prompts, [draw.randint(answer // 4, answer) for _ in range(requests)])


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
    "talk24": lambda: talk(24, systems=3, system_len=96, question=48, answer=48),
    "talk48": lambda: talk(48, systems=4, system_len=512, question=256, answer=96),
    "talk256": lambda: talk(256, systems=8, system_len=512, question=256, answer=256),
    "quick": lambda: same("quick", 4, 16, 8),
}


def traffic(name: str) -> Traffic:
    """ValueError lists the names."""
    if name not in TRAFFIC:
        raise ValueError(f"there is no workload {name!r}; there are {', '.join(TRAFFIC)}")
    return TRAFFIC[name]()
