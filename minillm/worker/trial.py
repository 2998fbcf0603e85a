"""The largest step, computed for nobody: on a GPU, what it takes is measured before the pages are counted.

Its requests ask for everything that costs memory, and their page tables name the same one page again and again, so a
cache of a single page is enough. What stands in it does not matter.
"""

import gc
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from minillm.attention.backend import AttentionBackend
from minillm.kvcache.pages import pages_for
from minillm.kvcache.storage import KVCache
from minillm.probe import unheard
from minillm.request import SamplingParams
from minillm.scheduler.plan import Joining, PlanRow, StepPlan
from minillm.setup import Setup
from minillm.worker.device import DeviceMemory
from minillm.worker.platform import Platform
from minillm.worker.runner import ModelRunner

MOST_PAGE = 16  # tokens in the trial's one page: where a page is a whole request, it would be as large as a cache
SPARE = 16  # a step's memory is planned a sixteenth larger: the allocator's pieces do not always fit the next step's
LATER = 2**27  # for kernels that CUDA loads when they run for the first time, in a step that was not tried
ROUNDING = 2**22  # for the cache, which comes later, and whose size the allocator rounds up


@dataclass
class Measured:
    """Bytes. ``in_torch``: the most that torch holds for this engine, the weights among it. ``outside``: what CUDA and
    its libraries take beside torch. ``graphs``: what recorded decode steps take."""

    in_torch: int
    outside: int
    graphs: int


@dataclass
class Trial:
    """All it takes to run steps of a model that is loaded, on a device that had ``memory`` before."""

    setup: Setup
    platform: Platform
    model: nn.Module
    memory: DeviceMemory

    def measure(self) -> Measured:
        """What the largest steps take on a CUDA device: run once for whatever is compiled, then watched."""
        device = self.memory.device
        with unheard():
            runner = self.make_runner()
            run_largest(runner)
            replays = self.platform.why_eager(self.model, runner.backend) is None
            before = self._cleared()
            if replays:
                runner.record_graphs()
            graphs = max(self._cleared() - before, 0)
            del runner
            self._cleared()
            torch.cuda.reset_peak_memory_stats(device)
            loaded = torch.cuda.memory_reserved(device)
            run_largest(self.make_runner())
            peak = torch.cuda.max_memory_reserved(device)
            self._cleared()
        return Measured(
            peak - self.memory.in_torch + (peak - loaded) // SPARE + ROUNDING, self.memory.outside() + LATER, graphs
        )

    def warm_up(self, backend: AttentionBackend) -> None:
        """Run the largest steps with the engine's own backend, so that torch has memory in the pieces that they want
        before smaller steps cut it up otherwise. (vLLM does the same.)"""
        with unheard():
            run_largest(self.make_runner(backend))
            torch.cuda.synchronize(self.memory.device)

    def make_runner(self, backend: AttentionBackend | None = None) -> ModelRunner:
        """One with a seat for every request that may run, over a cache of one page, which need not be large."""
        setup = self.setup
        size = min(setup.page_size, MOST_PAGE)
        cache = KVCache(self.platform.attention.kv, 1, size, setup.device)
        backend = backend or self.platform.attention_for(cache)
        runner = ModelRunner(setup, self.platform, self.model, cache, backend, setup.config.max_num_seqs)
        runner.sampling.reserve()
        return runner

    def _cleared(self) -> int:
        """What the engine holds on the device, once nothing is held that nobody uses."""
        torch.cuda.synchronize(self.memory.device)
        gc.collect()
        torch.cuda.empty_cache()
        return self.memory.used()


def run_largest(runner: ModelRunner) -> None:
    """Launch the largest steps, each before the one ahead of it is read, as steps that overlap are."""
    flying = None
    for plan in largest_steps(runner.setup, runner.sampling.vocab_size, runner.kv_cache.page_size):
        before, flying = flying, runner.launch(plan)
        if before is not None:
            before.read()
    if flying is not None:
        flying.read()


def largest_steps(setup: Setup, vocab_size: int, page_size: int) -> Iterator[StepPlan]:
    """A token budget spread over as many new requests as may run; and then one token for each of them, the first deep
    in its context, but for the last, which computes the end of a long prompt with the rest of the budget."""
    config, longest = setup.config, setup.max_model_len
    budget = config.max_num_batched_tokens
    rows = min(config.max_num_seqs, budget)
    even = [min(budget // rows + (i < budget % rows), longest) for i in range(rows)]
    deep = [*[1] * (rows - 1), min(budget - rows + 1, longest)]
    for number, counts in enumerate((even, deep), start=1):
        plan = StepPlan(number)
        for i, count in enumerate(counts):
            start = longest - count if number == 2 and config.reuse_kv and i in (0, rows - 1) else 0
            joins = asks_for_all(i, rows, longest, vocab_size) if number == 1 else None
            held = pages_for(start + count, page_size)
            plan.rows.append(PlanRow(i, i, start, count, [0] * count, [], held, samples=True, joins=joins))
        yield plan


def asks_for_all(row: int, rows: int, longest: int, vocab_size: int) -> Joining:
    """A request that wants whatever there is. The first is greedy, so that those that draw are copied; the last wants
    log probabilities of its prompt, which is as long as prompts get."""
    few = min(20, vocab_size)
    params = SamplingParams(
        temperature=0 if row == 0 and rows > 1 else 1, top_k=max(vocab_size - 1, 1), top_p=0.9, min_p=1e-6,
        repetition_penalty=1.1, frequency_penalty=0.1, presence_penalty=0.1, logit_bias={0: 1.0},
        min_tokens=longest, max_tokens=longest, logprobs=few, prompt_logprobs=few,
    )  # fmt: skip
    last = row == rows - 1
    prompt = [0] * longest if last else [0]
    return Joining(params, row, prompt, prompt_logprobs=last, end_ids=[0], bad_words=[[0, 0]])
