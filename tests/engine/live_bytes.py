"""What torch really holds on a CPU while something runs: every allocation and release, as its profiler books them."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def most_held(work: Callable[[], object]) -> int:
    """The most bytes that ``work`` held at once, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events, "the profiler of this torch books no memory"
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
