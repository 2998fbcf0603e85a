"""Whether this machine is quiet: what is recorded while other programs run shows their times, not the lesson's."""

import os
import time

import psutil

LIMIT = 0.25  # processors that other programs may keep busy while a lesson is recorded


class Others:
    """``with Others() as others: ...``; then ``others.busy`` is how many processors other programs kept busy meanwhile.

    This process and those that it has waited for do not count.
    """

    def __enter__(self) -> "Others":
        self._began, self._all, self._ours = time.perf_counter(), _all_seconds(), _our_seconds()
        self.busy = 0.0
        return self

    def __exit__(self, *_exc: object) -> None:
        theirs = (_all_seconds() - self._all) - (_our_seconds() - self._ours)
        self.busy = round(max(theirs, 0.0) / (time.perf_counter() - self._began), 2)


def busy_now(seconds: float = 3.0) -> float:
    """How many processors other programs keep busy while this one waits."""
    with Others() as others:
        time.sleep(seconds)
    return others.busy


def _all_seconds() -> float:
    """The time that all processors have worked since the machine was started."""
    told = psutil.cpu_times()
    return sum(getattr(told, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


def _our_seconds() -> float:
    told = os.times()
    return told.user + told.system + told.children_user + told.children_system
