"""A CPU's stream: one thread that computes step after step, so that the host can go on meanwhile.

On a GPU a stream is a queue of work. The device does it in order, and whoever adds to it does not wait. A CPU has no
such device, but torch lets go of Python's lock inside its operators, so a thread can stand in for one.

Why nothing is mixed up: what the host knows of a step is written into tensors before the thread gets it. What steps
hand on to each other is touched by the thread alone, in the order of the plans (`ModelRunner.start`).
"""

import threading
import weakref
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue

from minillm.probe import probe, set_step
from minillm.scheduler.plan import StepPlan, StepResult
from minillm.worker.runner import ModelRunner
from minillm.worker.step import Launched, Prepared


@dataclass
class Queued:
    """A step that the thread works on, will work on, or has done."""

    prepared: Prepared
    future: Future[Launched] = field(default_factory=Future)

    @property
    def plan(self) -> StepPlan:
        return self.prepared.plan

    def read(self) -> StepResult:
        """Wait for the tokens, if they are not there yet. An error in the step comes out here."""
        return self.future.result().read()


class CpuStream:
    """Steps in the order in which they were launched, each after the one before it is done."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self._queue: SimpleQueue[tuple[ModelRunner, Queued] | None] = SimpleQueue()
        thread = threading.Thread(target=_work, args=(self._queue,), name="device", daemon=True)
        thread.start()
        weakref.finalize(self, _stop, self._queue, thread)  # when nobody needs it, at the latest when Python ends

    def launch(self, plan: StepPlan) -> Queued:
        """Prepare a plan, put it into the queue, and do not wait."""
        queued = Queued(self.runner.prepare(plan))
        self._queue.put((self.runner, queued))
        return queued


def _work(queue: "SimpleQueue[tuple[ModelRunner, Queued] | None]") -> None:
    """In the thread: step after step, as the device would."""
    while work := queue.get():
        compute(*work)
        del work  # an engine that nobody needs any more must not live on here


def compute(runner: ModelRunner, queued: Queued) -> None:
    """All that the device would do of a step, to the tokens. An error is for whoever reads it."""
    set_step(queued.plan.step)  # the host is at another one
    try:
        probe.on and probe("stream.begin", plan=queued.plan)
        launched = runner.start(queued.prepared)
        probe.on and probe("stream.end", plan=queued.plan, launched=launched)
        queued.future.set_result(launched)
    except BaseException as error:
        queued.future.set_exception(error)


def _stop(queue: "SimpleQueue[tuple[ModelRunner, Queued] | None]", thread: threading.Thread) -> None:
    """Let the thread finish what it has, and wait for that."""
    queue.put(None)
    if thread is not threading.current_thread():
        thread.join()
