"""EngineCore: schedule, execute, commit. It knows token ids and no text. (vLLM V1's word and place for it.)"""

from minillm.engine.overlap import Overlap
from minillm.kvcache.manager import KVCacheManager
from minillm.probe import probe, set_step
from minillm.request import Request
from minillm.sampling.grammar import Grammars
from minillm.sampling_params import StructuredOutputsParams
from minillm.scheduler.plan import StepPlan, StepResult
from minillm.scheduler.scheduler import Scheduler
from minillm.setup import Setup
from minillm.text.ends import end_tokens
from minillm.text.tokenizer import Tokenizer
from minillm.worker.executor import make_executor


class EngineCore:
    """Requests in, tokens out, one step at a time. Who runs is the scheduler's business, on what the executor's.

    tokenizer: only grammars need it, which must know what a token spells.
    """

    def __init__(self, setup: Setup, tokenizer: Tokenizer) -> None:
        self.setup = setup
        self.executor = make_executor(setup)
        memory = self.executor.memory
        manager = KVCacheManager(
            memory.num_pages, memory.page_size, shares_prefixes=setup.shares_prefixes, reuse_kv=setup.config.reuse_kv
        )
        probe.on and probe("kv.pool", pool=manager.pool, manager=manager)
        self.scheduler = Scheduler(setup.config, manager)
        self.eos_ids, self.ends = end_tokens(setup.model_config, tokenizer)
        self.grammars = Grammars(tokenizer, setup.model_config.vocab_size, self.eos_ids)
        self.overlap = Overlap(self.scheduler, self.executor, self.grammars) if setup.async_scheduling else None

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return self.scheduler.idle

    def add(self, requests: list[Request], structured: StructuredOutputsParams | None = None) -> None:
        """Queue requests, all or none. structured: the grammar that their answers follow. ValueError says what is wrong
        with them."""
        compiled = self.grammars.compile(structured) if structured else None
        try:
            for request in requests:
                self.scheduler.add(request)
                if compiled is not None:
                    self.grammars.start(request, compiled)
        except BaseException:
            for request in requests:
                self.abort(request)
                self.grammars.forget(request)
            raise

    def step(self) -> tuple[StepPlan, StepResult, list[Request]] | None:
        """One step: its plan, its result, and the requests that got a token; None if there was none to read.

        If it is cut short (Ctrl-C, an error), nothing is lost but its work: the next step does it again.
        """
        if self.scheduler.idle:
            self._land()  # rows of requests that have ended: nobody waits for them
            return None
        set_step(self.scheduler.num_steps + 1)
        done = self.overlap.step() if self.overlap else self._step_now()
        if done is None:
            return None
        plan, result = done
        advanced = self.scheduler.commit(plan, result)
        if self.setup.config.debug_checks:
            self.scheduler.check()
        return plan, result, advanced

    def _step_now(self) -> tuple[StepPlan, StepResult]:
        """A step from plan to result."""
        plan = self.scheduler.schedule()
        plan.masks = self.grammars.masks(plan)
        return plan, self.executor.execute(plan)

    def _land(self) -> None:
        """Forget the step that is under way."""
        if self.overlap:
            self.overlap.flying = None

    def start_over(self) -> None:
        """After a step that was cut short: all that has not ended is computed again."""
        self._land()
        self.scheduler.start_over()

    def end(self, request: Request) -> None:
        """Take back what a request holds that has ended, by its tokens or by its text."""
        self.scheduler.end(request)

    def abort(self, request: Request) -> None:
        """End a request now, wherever it is."""
        self.scheduler.abort(request)

    def forget(self, request: Request) -> None:
        """Its output was made: nobody asks for it again."""
        self.grammars.forget(request)

    def flush_cache(self) -> None:
        """Forget all cached prefixes. RuntimeError unless nothing runs and nothing waits."""
        self.scheduler.flush_cache()
