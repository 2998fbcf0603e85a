"""Build 1's seam: the engine with a learner's scheduler in place of its own, and a referee between the two.

The referee believes plans alone. It keeps its own books of seats, pages and computed tokens from them, which is all
that the worker knows too, and holds the scheduler's against them. The engine's pool is kept as the referee's books say,
so that whatever looks at pages (page maps, `PagePool.check`) looks at what is so.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from random import Random
from types import ModuleType
from typing import Any

from minillm.config import EngineConfig
from minillm.engine import core
from minillm.engine.engine import Engine
from minillm.kvcache.manager import KVCacheManager
from minillm.learn.build import Build
from minillm.learn.build_views import Served
from minillm.learn.builds.build_1.referee import Referee
from minillm.learn.timing import time_steps
from minillm.probe import listen, probe
from minillm.request import Request, RequestState, SamplingParams
from minillm.scheduler.drafts import Proposer
from minillm.scheduler.plan import StepPlan, StepResult
from minillm.scheduler.scheduler import Scheduler

READ_ON = """\
The engine's own is minillm/scheduler/scheduler.py, with queues.py beside it; pages are the business of
minillm/kvcache/manager.py. It has more: a prefix cache, policies, drafts, tokens that are still on their way."""
IN_FLIGHT = """\
the scheduler of build 1 plans a step when all tokens before it are known, and async_scheduling plans one ahead:
set async_scheduling=False"""


class Hosted(Scheduler):
    """The engine's scheduler, as far as the engine asks; what it decides, ``theirs`` decides."""

    def __init__(
        self, make: Callable[..., Any], config: EngineConfig, manager: KVCacheManager, proposer: Proposer | None = None
    ) -> None:
        super().__init__(config, manager, proposer)
        if config.async_scheduling is True:
            raise ValueError(IN_FLIGHT)
        self.make = make
        self._begin()

    def _begin(self) -> None:
        pool, budget = self.manager.pool, self.config.max_num_batched_tokens
        self.theirs = self.make(pool.num_pages, pool.page_size, self.num_seats, budget)
        self.referee = Referee(pool, self.num_seats, budget)

    def add(self, request: Request) -> None:
        super().add(request)
        self.theirs.add(request)

    def end(self, request: Request) -> None:
        if self._alive.pop(request.id, None) is not None:
            self.theirs.remove(request)
            self.referee.left(request)
            self._mirror()
            self.referee.count_pages(self.theirs.num_free, f"request {request.id} was removed")

    def schedule(self) -> StepPlan:
        self.num_steps += 1
        plan = self.theirs.schedule(self.num_steps)
        self.referee.planned(plan, self.num_steps, self._alive)
        for id in plan.preempted:
            self._alive[id].num_preemptions += 1
            self.num_preemptions += 1
        for row in plan.rows:
            if self._alive[row.request_id].num_cached is None:
                self._alive[row.request_id].num_cached = 0
        self._mirror()
        tell = probe  # not "probe": the catalogue of probes is about the engine's own
        tell.on and tell("scheduler.plan", plan=plan, scheduler=self)
        return plan

    def commit(self, plan: StepPlan, result: StepResult) -> list[Request]:
        tell = probe
        tell.on and tell("scheduler.commit", plan=plan, result=result, scheduler=self)
        known = {id: request.num_known for id, request in self._alive.items()}
        advanced = self.theirs.commit(plan, result)
        self.referee.committed(plan, advanced, self._alive, known)
        for request in [request for request in self._alive.values() if request.finished]:
            self.referee.left(request)
            del self._alive[request.id]
        self._mirror()
        self.referee.count_pages(self.theirs.num_free, f"step {plan.step}, after commit")
        return advanced

    def advance(self, plan: StepPlan) -> None:
        raise ValueError(IN_FLIGHT)

    def start_over(self) -> None:
        super().start_over()
        self._begin()
        for request in self.waiting:
            self.theirs.add(request)

    def _mirror(self) -> None:
        """The engine's queues, seats and pool, from the referee's books."""
        held = self.referee.held
        for request in self._alive.values():
            request.state = RequestState.RUNNING if request.id in held else RequestState.WAITING
        self.running = [self._alive[id] for id in held if id in self._alive]
        self.waiting.clear()
        self.waiting.extend(request for id, request in self._alive.items() if id not in held)
        taken = {one.seat for one in held.values()}
        self.free_seats = [seat for seat in reversed(range(self.num_seats)) if seat not in taken]
        self.pool.reset()
        for one in held.values():
            for page in one.pages:
                self.pool.references[page] = 1
        self.pool.free_pages = [page for page in self.pool.free_pages if not self.pool.references[page]]


@contextmanager
def placed(load: Callable[[], ModuleType]) -> Iterator[None]:
    """Inside, engines are made with the ``Scheduler`` of the module that ``load`` gives."""
    make, own = load().Scheduler, core.Scheduler

    def hosted(config: EngineConfig, manager: KVCacheManager, proposer: Proposer | None = None) -> Hosted:
        return Hosted(make, config, manager, proposer)

    core.Scheduler = hosted  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        core.Scheduler = own  # type: ignore[misc]


def ours() -> AbstractContextManager[None]:
    """The other side of a race."""
    return nullcontext()


def about_the_race() -> str:
    return ""


def serve(build: Build) -> Served:
    """The workload of the target, on the bundled model."""
    from minillm.learn.workload import make_engine  # here: a seam is looked at without an engine, too

    engine = make_engine("nano-llama", **tight(build), max_model_len=256)
    return served(engine, build)


def tight(build: Build) -> dict[str, Any]:
    """The settings of the target: few pages, few tokens a step."""
    goal = build.target_numbers
    return {
        "page_size": goal["page_size"],
        "num_pages": goal["pages"],
        "max_num_seqs": goal["seats"],
        "max_num_batched_tokens": goal["budget"],
        "prefix_cache": "none",
        "async_scheduling": False,
    }


def served(engine: Engine, build: Build) -> Served:
    """What comes of the target's workload: short prompts and long ones, all at once, more than there are pages for."""
    random = Random(1)
    requests = []
    for _ in range(build.target_numbers["requests"]):
        prompt = [random.randrange(5, 95) for _ in range(random.choice((3, 6, 10, 20, 60)))]
        params = SamplingParams(temperature=0, max_tokens=random.choice((4, 8, 16, 24, 40)), ignore_eos=True)
        requests.append(engine.add_request({"prompt_token_ids": prompt}, params))
    running: list[int] = []
    with listen("scheduler.plan", lambda event: running.append(len(event.scheduler.running))):
        seconds, _ = time_steps(engine)
    return Served(
        sum(seconds),
        [request.output_ids for request in requests],
        {
            "steps": (len(running), "", "lower"),
            "requests at once, most": (max(running), "", "higher"),
            "requests at once, mean": (sum(running) / len(running), "", "higher"),
            "times one had to leave": (engine.scheduler.num_preemptions, "", ""),
        },
    )
