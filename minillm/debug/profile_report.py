"""What a profile says: where the time of prefill steps and of decode steps went, by kind of kernel and by layer."""

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from minillm.debug.attribution import Kernel, is_range, kernels_of
from minillm.debug.kernel_kinds import ALL_KINDS
from minillm.debug.spans import DEVICE, Interval, Span, busy_and_idle, spans_of
from minillm.debug.step_work import ModelShape, StepFacts, bytes_of_step, flops_of_step
from minillm.probe import probe

KEY = "minillm"  # where a trace file holds what we know of its steps


@dataclass
class KindRow:
    """One kind of kernel in a mean step: how often, for how long (us), how many bytes it had to move at the least, and
    how many operations it did."""

    kind: str
    calls: float
    microseconds: float
    bytes: float
    flops: float

    @property
    def gb_per_s(self) -> float:
        return self.bytes / self.microseconds / 1e3 if self.microseconds else 0.0


@dataclass
class Phase:
    """Some steps that are alike. Times are microseconds of a mean step; ``wall`` is ``busy`` and ``idle``.

    layers: for each layer, and for each part of the engine that is no layer's, its time by kind. host: time in each of
    the host's ranges, such as schedule and commit.
    """

    steps: list[StepFacts]
    wall: float
    busy: float
    idle: float
    kinds: list[KindRow]
    layers: dict[int | str, dict[str, float]]
    host: dict[str, float]

    @property
    def tokens(self) -> float:
        return sum(sum(step.counts) for step in self.steps) / len(self.steps)

    @property
    def requests(self) -> float:
        return sum(len(step.counts) for step in self.steps) / len(self.steps)


@dataclass
class Profile:
    """A whole profile, out of a trace. limit: GB/s at which the device copies, reads and writes added up."""

    device: str
    limit: float
    shape: ModelShape
    facts: dict[int, StepFacts]
    kernels: list[Kernel]
    ranges: list[Span]
    on_gpu: bool
    windows: dict[int, Interval] = field(default_factory=dict)  # of each step: from when to when it had the device

    @classmethod
    def of(cls, trace: dict[str, Any]) -> "Profile":
        """ValueError if the trace is not from this engine."""
        if KEY not in trace:
            raise ValueError("this trace says nothing of its steps; --profile writes one that does")
        told, spans = trace[KEY], spans_of(trace)
        shape = ModelShape(**told["shape"])
        probe.on and probe("profile.read", told=told, spans=spans, shape=shape)
        facts = {one["step"]: StepFacts(**one) for one in told["steps"]}
        kernels = [one for one in kernels_of(spans, shape.layers) if one.place.step in facts]
        ranges = [span for span in spans if is_range(span)]
        on_gpu = any(span.category in DEVICE for span in spans)
        profile = cls(told["device"], told["limit"], shape, facts, kernels, ranges, on_gpu)
        profile.windows = profile._device_windows() if on_gpu else profile._host_windows()
        return profile

    def phases(self) -> dict[str, Phase]:
        """ "prefill" (steps in which a prompt is computed) and "decode" (all others), those that there were."""
        groups = {
            "prefill": [n for n in self.windows if not self.facts[n].is_decode],
            "decode": [n for n in self.windows if self.facts[n].is_decode],
        }
        return {name: self.phase(numbers) for name, numbers in groups.items() if numbers}

    def phase(self, numbers: list[int]) -> Phase:
        """The mean of these steps."""
        n, chosen = len(numbers), set(numbers)
        kernels = [kernel for kernel in self.kernels if kernel.place.step in chosen]
        by_step = defaultdict(list)
        for kernel in kernels:
            by_step[kernel.place.step].append((kernel.start, kernel.end))
        probe.on and probe("profile.phase", profile=self, numbers=numbers, kernels=kernels)
        times = [busy_and_idle(by_step[number], *self.windows[number]) for number in numbers]
        busy, idle = (sum(column) / n for column in zip(*times))
        layers: dict[int | str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for kernel in kernels:
            where = kernel.place.layer if kernel.place.layer is not None else kernel.place.part
            layers[where][kernel.kind] += kernel.duration / n
        steps = [self.facts[number] for number in numbers]
        kinds = self._kinds(kernels, steps)
        probe.on and probe("profile.result", profile=self, steps=steps, kinds=kinds, busy=busy, idle=idle)
        return Phase(steps, busy + idle, busy, idle, kinds, dict(layers), self._host(chosen))

    def _kinds(self, kernels: list[Kernel], steps: list[StepFacts]) -> list[KindRow]:
        n = len(steps)
        moved: dict[str, float] = defaultdict(float)
        done: dict[str, float] = defaultdict(float)
        for step in steps:
            for kind, count in bytes_of_step(self.shape, step.counts, step.contexts, step.samples).items():
                moved[kind] += count
            for kind, count in flops_of_step(self.shape, step.counts, step.contexts, step.samples).items():
                done[kind] += count
        rows = []
        for kind in ALL_KINDS:
            mine = [kernel.duration for kernel in kernels if kernel.kind == kind]
            if mine:
                rows.append(KindRow(kind, len(mine) / n, sum(mine) / n, moved[kind] / n, done[kind] / n))
        return sorted(rows, key=lambda row: -row.microseconds)

    def _host(self, chosen: set[int]) -> dict[str, float]:
        """Microseconds of the host in each of its ranges, in a mean step; of those within each other the outer one
        counts what the inner ones do."""
        total: dict[str, float] = defaultdict(float)
        inside = [span for span in self.ranges if span.name.startswith("step ")]
        mine = [span for span in inside if int(span.name.split()[1]) in chosen]
        for step in mine:
            for span in self.ranges:
                if step.start <= span.start and span.end <= step.end and span is not step:
                    name = span.name.split()[0] if span.name[-1].isdigit() else span.name
                    if name in ("schedule", "launch", "read", "commit", "build batch", "forward", "head", "sample"):
                        total[name] += span.duration / len(mine)
        return dict(total)

    def _host_windows(self) -> dict[int, Interval]:
        """On a CPU a step has the device from its begin to its end."""
        steps = [span for span in self.ranges if span.name.startswith("step ")]
        windows = {int(span.name.split()[1]): (span.start, span.end) for span in steps}
        return {number: window for number, window in windows.items() if number in self.facts}

    def _device_windows(self) -> dict[int, Interval]:
        """On a GPU from its first kernel to the next step's first; the last one's ends with its last kernel."""
        first: dict[int, float] = {}
        last: dict[int, float] = {}
        for kernel in self.kernels:
            number = kernel.place.step
            first[number] = min(first.get(number, kernel.start), kernel.start)
            last[number] = max(last.get(number, kernel.end), kernel.end)
        order = sorted(first, key=first.__getitem__)
        ends = [*(first[number] for number in order[1:]), *(last[number] for number in order[-1:])]
        return {number: (first[number], end) for number, end in zip(order, ends)}


def told(device: str, limit: float, shape: ModelShape, steps: list[StepFacts]) -> dict[str, Any]:
    """What a trace file says of its steps, as JSON has it; `Profile.of` reads it."""
    return {
        "version": 1, "device": device, "limit": limit, "shape": asdict(shape), "steps": [asdict(s) for s in steps],
    }  # fmt: skip
