"""The stop-watch of the lessons and of ``learn race``."""

import time
from collections.abc import Callable

from minillm.engine.engine import Engine


def time_steps(engine: Engine, after_each: Callable[[], None] | None = None) -> tuple[list[float], int]:
    """Step until all requests have ended: the seconds of each step, and how many tokens the steps were asked for.

    A step is asked for all that is pending, and computes just that where no budget cuts a prompt.
    after_each: called between two steps, off the clock.
    """
    seconds, tokens = [], 0
    scheduler = engine.scheduler
    while engine.has_requests:
        tokens += sum(request.num_pending for request in (*scheduler.running, *scheduler.waiting))
        start = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - start)
        if after_each:
            after_each()
    return seconds, tokens
