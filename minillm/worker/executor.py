"""Executor: who computes an engine's steps. One worker in this process, or several ranks that get the same plan each.

The engine above it knows neither devices nor ranks; a worker below it knows neither requests nor text. What passes
between them is a `StepPlan`, plain numbers, and what comes back are tokens. (vLLM: Executor, UniProcExecutor.)
"""

from abc import ABC, abstractmethod
from typing import Protocol

from minillm.scheduler.plan import StepPlan, StepResult
from minillm.setup import Setup
from minillm.worker.memory import MemoryPlan
from minillm.worker.worker import Worker


class UnderWay(Protocol):
    """A step that was launched."""

    @property
    def plan(self) -> StepPlan: ...

    def read(self) -> StepResult:
        """Wait for the tokens, if they are not there yet."""


class Executor(ABC):
    """memory: what fits, and so how many pages there are. worker: the rank in this process, for whoever looks in."""

    memory: MemoryPlan
    worker: Worker

    @abstractmethod
    def launch(self, plan: StepPlan) -> UnderWay:
        """Set the devices to work on a plan, in the order in which plans come, and do not wait."""

    def execute(self, plan: StepPlan) -> StepResult:
        """A plan from beginning to end."""
        return self.launch(plan).read()


class UniExecutor(Executor):
    """One worker, in this process: a thread of control to step through, from the scheduler into the model."""

    def __init__(self, setup: Setup) -> None:
        self.worker = Worker(setup)
        self.memory = self.worker.plan_memory()
        self.worker.make_cache(self.memory.num_pages)

    def launch(self, plan: StepPlan) -> UnderWay:
        return self.worker.launch(plan)


def make_executor(setup: Setup) -> Executor:
    """The executor that a setup asks for."""
    return UniExecutor(setup)
