"""A whole engine over two ranks in one process: the group reaches layers, cache, memory plan and the trial, and every
rank computes every plan. What is still missing for real ranks is only that they live in other processes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ranks import FakeGroup, on_every_rank
from tiny import make_model
from tiny_moe import make_moe
from workload import Job, assert_idle, make_engine, run_jobs

from minillm.scheduler.plan import StepPlan, StepResult
from minillm.setup import Setup
from minillm.worker import executor as executor_module
from minillm.worker.executor import Executor
from minillm.worker.trial import Trial, run_largest
from minillm.worker.worker import Worker

HEADS = {"num_attention_heads": 8, "num_key_value_heads": 2}
JOBS = [
    Job((5, 6, 7, 8, 9, 10, 11), 9),
    Job((5, 6, 7, 8, 9, 10, 12), 6, temperature=0.8, seed=3, arrives=1, logprobs=2),
    Job((50, 3), 12, arrives=2, repetition=1.3, bias=((4, 1.0),), min_tokens=3),
    Job(tuple(range(20, 60)), 5, arrives=3, n=2, temperature=1.0, seed=5),
]


@dataclass
class Done:
    plan: StepPlan
    result: StepResult

    def read(self) -> StepResult:
        return self.result


class Ranks(Executor):
    """As many workers as there are ranks, a thread each. The least of them says how many pages there are."""

    size = 2

    def __init__(self, setup: Setup) -> None:
        self.workers: list[Worker] = on_every_rank(self.size, lambda group: self._born(setup, group))
        self.memory = min((worker.plan_memory() for worker in self.workers), key=lambda plan: plan.num_pages)
        self._all(lambda worker: worker.make_cache(self.memory.num_pages))
        self.worker = self.workers[0]

    @staticmethod
    def _born(setup: Setup, group: FakeGroup) -> Worker:
        return Worker(replace(setup, group=group))

    def _all(self, work: Any) -> list[Any]:
        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(work, self.workers))

    def launch(self, plan: StepPlan) -> Done:
        results = self._all(lambda worker: worker.launch(plan).read())
        assert all(result.tokens == results[0].tokens for result in results), "the ranks sampled different tokens"
        return Done(plan, results[0])


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "mixtral"])
def test_two_ranks_write_what_one_writes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (make_moe if kind == "mixtral" else make_model)(tmp_path, kind, **HEADS)
    settings = {"page_size": 4, "num_pages": 30, "max_num_batched_tokens": 24, "debug_checks": True}
    expected = run_jobs(alone := make_engine(tmp_path, **settings), JOBS)
    monkeypatch.setattr(executor_module, "UniExecutor", Ranks)
    engine = make_engine(tmp_path, **settings)
    executor = engine.core.executor
    assert isinstance(executor, Ranks)
    got = run_jobs(engine, JOBS)
    for i in range(len(JOBS)):
        assert [one.token_ids for one in got.finals[i].outputs] == [one.token_ids for one in expected.finals[i].outputs]
    assert_idle(engine)
    for worker in executor.workers:
        cache = worker.runner.kv_cache
        assert cache.spec.num_kv_heads == 1 and cache.num_pages == 30
        assert cache.num_bytes == alone.runner.kv_cache.num_bytes // 2 == 30 * executor.memory.page_bytes
    assert executor.memory.weights < alone.memory.weights
    assert executor.memory.activations < alone.memory.activations


def test_the_trial_runs_on_every_rank(tmp_path: Path) -> None:
    """It computes the largest step with this rank's layers and heads, so what it measures is this rank's memory."""
    make_model(tmp_path, "llama", **HEADS)
    setup = make_engine(tmp_path, max_num_seqs=4, max_num_batched_tokens=32).setup

    def rank(group: FakeGroup) -> int:
        worker = Worker(replace(setup, group=group))
        runner = Trial(worker.setup, worker.platform, worker.model, worker.before).make_runner()
        run_largest(runner)
        return runner.kv_cache.spec.num_kv_heads

    assert on_every_rank(2, rank) == [1, 1]
