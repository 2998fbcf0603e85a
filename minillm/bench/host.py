"""What a step costs the host: the microseconds of Python and of launching, apart from waiting for the device.

A GPU that is done with a step before the host has planned and launched the next one stands idle. So the host's time a
step is the other limit, beside memory's: tokens a second can never be more than the batch by this time.
"""

import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import minillm.worker.runner as runner_module
from minillm.bench.checkpoints import say
from minillm.bench.settings import check_seats
from minillm.bench.traffic import TEMPERATURE
from minillm.debug.views.units import counted
from minillm.engine.engine import Engine
from minillm.request import SamplingParams

PARTS = ("schedule", "launch", "commit", "rest")
DEVICE = "device"
SETTLING = 8  # decode steps after the prompts, before any counts


@dataclass
class HostTime:
    """Decode steps of ``requests`` requests; microseconds, each the median over the steps.

    schedule: deciding the step. launch: the plan becomes tensors, and kernels are launched. commit: the books. rest:
    everything else, such as telling who is done. host: those four added up. device: waiting for the GPU; on a CPU,
    where nobody else works, the model's computing and the sampling, which are in no other part. step: all of it.
    """

    requests: int
    steps: int
    schedule: float
    launch: float
    commit: float
    rest: float
    host: float
    device: float
    step: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Stopwatch:
    """Gives every moment to one part: the innermost of those that run. ``spent`` is in seconds."""

    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _running: list[str] = field(default_factory=list)
    _since: float = 0.0

    def _turn(self) -> None:
        """What has passed since the last turn goes to whoever ran."""
        now = time.perf_counter()
        if self._running:
            self.spent[self._running[-1]] += now - self._since
        self._since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time is that of ``part``."""

        def run(*arguments: Any, **named: Any) -> Any:
            self._turn()
            self._running.append(part)
            try:
                return function(*arguments, **named)
            finally:
                self._turn()
                self._running.pop()

        return run


@dataclass
class TimedEvent:
    """Stands for a CUDA event, and its ``synchronize`` is the time of the device."""

    synchronize: Callable[[], None]


@contextmanager
def watched(engine: Engine) -> Iterator[Stopwatch]:
    """Inside, a stopwatch sees the engine's parts. Listening to its probes would do, but switches CUDA graphs off."""
    watch, scheduler, runner = Stopwatch(), engine.scheduler, engine.runner
    launch = runner.launch

    def launch_with_timed_wait(plan: Any) -> Any:
        launched: Any = launch(plan)
        if launched.ready is not None:
            launched.ready = TimedEvent(watch.timed(DEVICE, launched.ready.synchronize))
        return launched

    parts: list[tuple[Any, str, str, Callable[..., Any]]] = [
        (engine, "step", "rest", engine.step),
        (scheduler, "schedule", "schedule", scheduler.schedule),
        (scheduler, "advance", "commit", scheduler.advance),
        (scheduler, "commit", "commit", scheduler.commit),
        (runner, "launch", "launch", launch_with_timed_wait),
    ]
    if engine.device.type == "cpu":
        model: Any = engine.model
        parts += [
            (model, "forward", DEVICE, model.forward),
            (model, "compute_logits", DEVICE, model.compute_logits),
            (runner_module, "sample_in_parts", DEVICE, runner_module.sample_in_parts),
        ]
    with ExitStack() as restore:
        if engine.device.type == "cpu" and engine.overlap:  # one thread, or the two would be timed as one
            worker = engine.core.executor.worker
            restore.callback(setattr, worker, "device", worker.device)
            worker.device = runner
        for owner, name, part, function in parts:
            own = vars(owner).get(name)  # a module's function is its own; a method is its class's
            restore.callback(*((setattr, owner, name, own) if own else (delattr, owner, name)))
            setattr(owner, name, watch.timed(part, function))
        yield watch


def measure_host(engine: Engine, requests: int, steps: int) -> HostTime:
    """Fill the engine with requests, wait until all decode, look at ``steps`` steps in which nobody comes or goes."""
    check_seats(engine, requests)
    vocab = engine.model_config.vocab_size
    # Lengths differ, so that not all need a new page in the same step.
    prompts = [[(7 * i + j) % vocab for j in range(16 + i % 16)] for i in range(requests)]
    added = [
        engine.add_request(prompt, SamplingParams(TEMPERATURE, max_tokens=None, ignore_eos=True)) for prompt in prompts
    ]
    taken: list[dict[str, float]] = []
    try:
        while not all(request.output_ids for request in added):
            engine.step()
        for _ in range(SETTLING):
            engine.step()
        gc.collect()
        with watched(engine) as watch:
            for _ in range(steps):
                watch.spent.clear()
                engine.step()
                taken.append({part: watch.spent[part] for part in (*PARTS, DEVICE)})
        if any(request.finished or request.num_preemptions for request in added):
            raise ValueError(
                f"{requests} requests and {steps} steps do not fit into the context limit or the KV cache; measure "
                "fewer, or give --set max_model_len or --set max_cached_tokens more"
            )
    finally:
        for request in added:
            engine.abort(request.id)
    say(f"{counted(requests, 'request')}: {counted(steps, 'step')}")
    return medians(requests, taken)


def medians(requests: int, taken: list[dict[str, float]]) -> HostTime:
    """Each part's median over the steps, in microseconds, and what they add up to."""
    parts = {part: statistics.median(one[part] for one in taken) * 1e6 for part in (*PARTS, DEVICE)}
    host = sum(parts[part] for part in PARTS)
    return HostTime(requests, len(taken), **parts, host=host, step=host + parts[DEVICE])
