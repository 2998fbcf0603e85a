"""What a stopped program works with: its scheduler, its batch, its plan, found from the frame that asks."""

import gc
from collections.abc import Iterator
from types import FrameType
from typing import Any

from minillm.attention.batch import ForwardBatch
from minillm.scheduler.plan import StepPlan
from minillm.scheduler.scheduler import Scheduler


class Scope:
    """The variables of a frame and of its callers.

    A console evaluates in a frame of its own whose callers are the debugger and then, because the debugger runs inside
    the program that it stopped, the stopped frame: so the way up leads through the engine's step to the script.
    """

    def __init__(self, frame: FrameType) -> None:
        self._frame = frame
        self.names: dict[str, Any] = frame.f_locals  # of the stopped frame: that is where a console evaluates

    def scheduler(self) -> Scheduler:
        """The nearest one up the stack; else one that is alive somewhere. LookupError if there is none."""
        found = self._nearest(_scheduler_of)
        if found is None:
            # A layer's frames know nothing of schedulers, and a debugger may have put threads in between.
            alive = [thing for thing in gc.get_objects() if issubclass(type(thing), Scheduler)]
            found = next((one for one in reversed(alive) if not one.idle), alive[-1] if alive else None)
        if found is None:
            raise LookupError("no engine is alive here yet: go on to a probe that comes later, such as request.add")
        return found

    def batch(self) -> ForwardBatch | None:
        return self._nearest(lambda value: value if isinstance(value, ForwardBatch) else None)

    def plan(self) -> StepPlan | None:
        return self._nearest(lambda value: value if isinstance(value, StepPlan) else None)

    def tokenizer(self, scheduler: Scheduler) -> Any:
        """The tokenizer of the engine that this scheduler belongs to, if one stands in these frames; else None."""
        return self._nearest(lambda value: _tokenizer_of(value, scheduler))

    def budget(self, scheduler: Scheduler) -> int | None:
        """Tokens left of the step that this scheduler is planning right now; None outside of that."""
        for names in self._levels():
            if names.get("self") is scheduler and isinstance(names.get("budget"), int):
                return names["budget"]
        return None

    def _nearest(self, wanted: Any) -> Any:
        for names in self._levels():
            for value in list(names.values()):
                if (found := wanted(value)) is not None:
                    return found
        return None

    def _levels(self) -> Iterator[dict[str, Any]]:
        """The variables of this frame, of its caller, and so on; the debugger's own frames are among them."""
        frame: FrameType | None = self._frame
        while frame is not None:
            yield frame.f_locals
            frame = frame.f_back


def _scheduler_of(value: Any) -> Scheduler | None:
    """A scheduler, an engine's (``.scheduler``) or an LLM's (``.engine.scheduler``); of a pool nobody knows whose."""
    if isinstance(value, Scheduler):
        return value
    # vars() and not getattr: a property of some stranger's object is not ours to run.
    own = getattr(value, "__dict__", None)
    if not isinstance(own, dict):
        return None
    scheduler = own.get("scheduler") or getattr(own.get("engine"), "__dict__", {}).get("scheduler")
    return scheduler if isinstance(scheduler, Scheduler) else None


def _tokenizer_of(value: Any, scheduler: Scheduler) -> Any:
    """An engine's tokenizer, or that of an LLM's engine, if the engine has this scheduler."""
    own = getattr(value, "__dict__", None)
    if not isinstance(own, dict):
        return None
    for names in (own, getattr(own.get("engine"), "__dict__", {})):
        if getattr(names.get("core"), "scheduler", None) is scheduler:
            return names.get("tokenizer")
    return None
