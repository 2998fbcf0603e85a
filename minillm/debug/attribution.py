"""Whose work a kernel is: the step and the layer that launched it, from the spans of a trace.

On a CPU a kernel is an operator of torch or a compiled function of ours, the outermost of several within each other. On
a GPU it is what ran there; the host's call that launched it shares a number with it, and lies within our ranges. A
graph's kernels were launched by one call all together: there, the layers show as a pattern that repeats.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from minillm.debug.kernel_kinds import ALL_KINDS, OTHER, kind_of
from minillm.debug.spans import DEVICE, LAUNCHES, Span


@dataclass(frozen=True)
class Place:
    """Where in our ranges something was launched; part: the innermost of them that says anything."""

    step: int = 0
    layer: int | None = None
    part: str = ""
    kind: str = ""  # what operators do together, where their names do not tell


@dataclass(frozen=True, slots=True)
class Kernel:
    """Work that was done: what kind of, for which step, layer and part of the engine, from when to when (us)."""

    name: str
    kind: str
    place: Place
    start: float
    end: float

    @property
    def duration(self) -> float:
        return self.end - self.start


def is_range(span: Span) -> bool:
    """Whether it is one of ours; names of operators and of compiled functions have colons in them."""
    return "::" not in span.name and span.category in ("cpu_op", "user_annotation")


def within(place: Place, name: str) -> Place:
    """The place of something that lies at ``place``, and there in the range ``name``."""
    words = name.split()
    if words[0] in ("step", "launch") and len(words) == 2:
        return replace(place, step=int(words[1]), part=words[0])
    if words[0] == "layer" and len(words) > 1:
        return replace(place, layer=int(words[1]), part=" ".join(words[2:]) or "norms")
    if name in ALL_KINDS:
        return replace(place, kind=name)
    return replace(place, part=name)


def kernels_of(spans: Sequence[Span], layers: int) -> list[Kernel]:
    """All kernels in a trace's spans, in the order in which they began."""
    on_host, launched = _walk(spans)
    device = [span for span in spans if span.category in DEVICE]
    if not device:
        return on_host
    kernels = [_kernel(span, launched.get(span.link, Place())) for span in device]
    together = defaultdict(list)
    for i, span in enumerate(device):
        together[span.link].append(i)
    for indices in together.values():
        if len(indices) > layers:  # a graph: one call, many kernels
            for i, layer in zip(indices, repeated_layers([kernels[i].name for i in indices], layers)):
                kernels[i] = replace(kernels[i], place=replace(kernels[i].place, layer=layer))
    return kernels


def repeated_layers(names: Sequence[str], layers: int) -> list[int | None]:
    """The layer of each kernel of a whole step, from nothing but the order of their names.

    Somewhere in ``names`` stands the longest sequence that comes ``layers`` times, one right after the other. What is
    before it and after it is no layer's: None.
    """
    count = len(names)
    for period in range(count // layers, 0, -1) if layers > 1 else ():
        same, needed = 0, (layers - 1) * period
        for i in range(count - period):  # how many in a row are followed, a period later, by the same name?
            same = same + 1 if names[i] == names[i + period] else 0
            if same == needed:
                first = i + 1 - needed
                inside = range(first, first + layers * period)
                return [(j - first) // period if j in inside else None for j in range(count)]
    return [None] * count


def _walk(spans: Sequence[Span]) -> tuple[list[Kernel], dict[int, Place]]:
    """Through what the host did: its outermost operators, and the place of each call that launched something."""
    kernels: list[Kernel] = []
    launched: dict[int, Place] = {}
    open_spans: dict[Any, list[tuple[Span, Place]]] = defaultdict(list)  # by thread: what has begun and not ended
    for span in spans:
        if span.category in DEVICE:
            continue
        stack = open_spans[span.thread]
        while stack and stack[-1][0].end <= span.start:
            stack.pop()
        place = stack[-1][1] if stack else Place()
        if span.category in LAUNCHES:
            launched[span.link] = place
            continue
        if is_range(span):
            place = within(place, span.name)
        elif place.step and (not stack or is_range(stack[-1][0])):
            kernels.append(_kernel(span, place))
        stack.append((span, place))
    return kernels, launched


def _kernel(span: Span, place: Place) -> Kernel:
    kind = kind_of(span.name)
    if place.kind.startswith("attention"):
        if kind.startswith("attention") or kind == "copy":  # of keys and values: a part of it
            kind = place.kind
    elif place.kind and kind in ("copy", OTHER):
        kind = place.kind
    return Kernel(span.name, kind, place, span.start, span.end)
