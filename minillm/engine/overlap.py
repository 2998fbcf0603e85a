"""The same step, one ahead of the CPU: while the device works on a step, the host plans and launches the next.

A plan does not need the tokens that are just being made: it says "the token that was sampled last", and the device has
it. So all that differs from the plain loop is when a result is read. What it costs: a request that turns out to have
ended is in the next step already, and that row is thrown away. (vLLM: async scheduling; SGLang: overlap schedule.)
"""

from minillm.probe import probe
from minillm.sampling.grammar import Grammars
from minillm.scheduler.plan import StepPlan, StepResult
from minillm.scheduler.scheduler import Scheduler
from minillm.worker.executor import Executor, UnderWay


class Overlap:
    """The loop's state: the step that is under way."""

    def __init__(self, scheduler: Scheduler, executor: Executor, grammars: Grammars) -> None:
        self.scheduler, self.executor, self.grammars = scheduler, executor, grammars
        self.flying: UnderWay | None = None

    def step(self) -> tuple[StepPlan, StepResult] | None:
        """Launch the next step, then read the one before; None if there was none.

        If the next plan needs the tokens of the one before, the result is read first.
        """
        before, self.flying = self.flying, None
        if before is None or not self.needs_tokens:
            self.flying = self._launch()
        if before is None:
            return None
        probe.on and probe("overlap.read", launched=before, flying=self.flying, scheduler=self.scheduler)
        return before.plan, before.read()

    @property
    def needs_tokens(self) -> bool:
        """Whether a plan needs to know all tokens before it: a grammar, to say what may come next, or a proposer, to go
        on from them."""
        return bool(self.grammars.active or self.scheduler.proposer)

    def _launch(self) -> UnderWay | None:
        """The next step, if anyone has a token to compute in it."""
        if self.scheduler.idle:
            return None
        plan = self.scheduler.schedule()
        if not plan.rows:
            return None
        plan.masks = self.grammars.masks(plan)
        probe.on and probe("overlap.launch", plan=plan, scheduler=self.scheduler)
        launched = self.executor.launch(plan)
        self.scheduler.advance(plan)
        return launched
