"""The quiz of lesson 11, where a profile is read: when it asks, and where it reads the answers."""

from minillm.debug.spans import busy_and_idle
from minillm.debug.step_work import StepFacts
from minillm.learn.moments import Facts
from minillm.probe import Event
from minillm.scheduler.scheduler import Scheduler


def trace_with_layers(event: Event, _scheduler: Scheduler) -> Facts | None:
    return {"steps": len(event.told["steps"]), "layer": event.shape.layers - 1}


def first_of(event: Event) -> StepFacts:
    """The first of the steps that are alike."""
    return event.profile.facts[event.numbers[0]]


def prompt_alone(event: Event, _scheduler: Scheduler) -> Facts | None:
    """One step, which computes one prompt, too short to make what goes through the matrices larger than they are."""
    step, shape = first_of(event), event.profile.shape
    alone = len(event.numbers) == len(step.counts) == 1 and not step.is_decode and not shape.experts
    through = sum(step.counts) * shape.layers * shape.layer_columns * shape.itemsize
    weights = shape.layers * shape.layer_weights
    return {"tokens": step.counts[0]} if alone and through < weights / 2 else None


def decode_alone(event: Event, _scheduler: Scheduler) -> Facts | None:
    """On a CPU, where a product is one kernel: a GPU's library may need two."""
    step, profile = first_of(event), event.profile
    dense = not profile.shape.experts and not profile.on_gpu
    return {"layers": profile.shape.layers} if step.is_decode and len(step.counts) == 1 and dense else None


def three_kernels(event: Event, _scheduler: Scheduler) -> Facts | None:
    """Three of a step, one after the other, with gaps between them that count in whole microseconds."""
    if not first_of(event).is_decode:
        return None
    mine = [kernel for kernel in event.kernels if kernel.place.step == event.numbers[0]]
    for three in zip(mine, mine[1:], mine[2:]):
        spans = [tuple(round(time - mine[0].start) for time in (kernel.start, kernel.end)) for kernel in three]
        (a, b), (c, d), (e, f) = spans
        if a < b < c < d < e < f:
            return {"a": a, "b": b, "c": c, "d": d, "e": e, "f": f, "spans": spans}
    return None


def decode_together(event: Event, _scheduler: Scheduler) -> Facts | None:
    step = first_of(event)
    several = step.is_decode and len(step.counts) > 1 and not event.profile.shape.experts
    return {"requests": len(step.counts)} if several else None


# How the answers are read.


def ranges_of_layer(facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return sum(span.name == f"layer {facts['layer']}" for span in event.profile.ranges)


def matrix_kernels(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    return round(next(row.calls for row in event.kinds if row.kind == "matrix"))


def reads_of_each_weight(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    """From the bytes of the profile's table; what goes in and comes out is less than the weights."""
    shape, row = event.profile.shape, next(row for row in event.kinds if row.kind == "matrix")
    return int(row.bytes // (shape.layers * shape.layer_weights + shape.head_weights))


def idle_between(facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    """Of the kernels that the question named, as the profile counts it."""
    return round(busy_and_idle(facts["spans"], facts["a"], facts["f"])[1])


def operations_a_weight(_facts: Facts, event: Event, _scheduler: Scheduler) -> int:
    """The operations of the profile's table without the head's, by the layers' weights."""
    shape, row = event.profile.shape, next(row for row in event.kinds if row.kind == "matrix")
    head = 2 * sum(step.samples for step in event.steps) / len(event.steps) * shape.hidden * shape.vocab
    return round((row.flops - head) / (shape.layers * shape.layer_numbers))
