"""Names for what the engine does, put into a profiler's trace: steps, layers, and the parts of both.

While nobody profiles, nothing of this exists. `named_ranges` puts a wrapper round some methods of one engine (as
attributes of the objects themselves, which hide the methods of their classes), and takes all of them away at the end.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from minillm.debug.step_work import StepFacts

if TYPE_CHECKING:
    from minillm.engine.engine import Engine

_MISSING = object()
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)$")
# A layer's modules that get a range of their own, by their name in it.
_PARTS = {"self_attn": "attention", "mlp": "mlp", "feed_forward": "mlp"}
_KINDS_IN_TORCH = {
    "rms_norm": "norm", "offset_rms_norm": "norm", "norm_heads": "norm", "gated_activation": "activation",
    "rotate_and_store": "rotary+store",
}  # fmt: skip


class Range:
    """Inside ``with Range("layer 3")``, the trace has a range of this name, and so has NVIDIA's (NVTX) on a GPU.

    shown: also in the GPU's lanes of the trace, over the kernels that were launched inside; that costs some more.
    """

    __slots__ = ("_nvtx", "_record", "name")

    def __init__(self, name: str, shown: bool = False) -> None:
        self.name, self._nvtx = name, torch.cuda.is_available()
        # torch has a cheaper recorder, which its own compiler uses: under a microsecond, and not six.
        quick = None if shown else getattr(torch._C._profiler, "_RecordFunctionFast", None)
        self._record = (quick or torch.profiler.record_function)(name)

    def __enter__(self) -> None:
        if self._nvtx:
            torch.cuda.nvtx.range_push(self.name)
        self._record.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._record.__exit__(*error)
        if self._nvtx:
            torch.cuda.nvtx.range_pop()


@contextmanager
def named_ranges(engine: "Engine", on_launch: Callable[[StepFacts], None] | None = None) -> Iterator[None]:
    """Inside, the engine's steps and layers are ranges. ``on_launch`` hears what each step is about to compute."""
    with ExitStack() as stack:

        def wrap(thing: Any, method: str, name: str, shown: bool = False) -> None:
            if hasattr(thing, method):
                stack.enter_context(_hidden(thing, method, _ranged(getattr(thing, method), name, shown)))

        runner, scheduler = engine.runner, engine.scheduler
        _wrap_steps(stack, engine, on_launch)
        wrap(scheduler, "schedule", "schedule")
        wrap(scheduler, "commit", "commit")
        wrap(runner, "_build_batch", "build batch")
        wrap(runner, "_replay", "replay")
        wrap(runner, "_choose", "sample")
        wrap(engine.model, "forward", "forward")
        wrap(engine.model, "compute_logits", "head")
        wrap(runner.backend, "decode", "attention decode")
        wrap(runner.backend, "prefill", "attention prefill")
        for path, module in engine.model.named_modules():
            if found := _LAYER.search(path):
                wrap(module, "forward", f"layer {found[1]}")
                for attribute, part in _PARTS.items():
                    if isinstance(getattr(module, attribute, None), nn.Module):
                        wrap(getattr(module, attribute), "forward", f"layer {found[1]} {part}")
        for kernels in _all_kernels(engine.model):
            if hasattr(kernels, "_functions"):
                _wrap_compiled(stack, kernels)
            elif kernels.name == "torch":  # several operators each, whose names do not say what they do together
                for method, kind in _KINDS_IN_TORCH.items():
                    wrap(kernels, method, kind)
        yield


def _wrap_steps(stack: ExitStack, engine: "Engine", on_launch: Callable[[StepFacts], None] | None) -> None:
    """``step 12`` round the engine's step, ``launch 12`` round that of the runner: with overlap, that is another
    step's; and ``read`` where the host waits for the tokens."""
    step, launch = engine.step, engine.runner.launch

    def ranged_step() -> Any:
        with Range(f"step {engine.scheduler.num_steps + 1}", shown=True):
            return step()

    def ranged_launch(plan: Any) -> Any:
        if on_launch is not None:
            on_launch(StepFacts.of(plan))
        with Range(f"launch {plan.step}", shown=True):
            launched = launch(plan)
        vars(launched)["read"] = _ranged(launched.read, "read")
        return launched

    stack.enter_context(_hidden(engine, "step", ranged_step))
    stack.enter_context(_hidden(engine.runner, "launch", ranged_launch))


def _ranged(call: Callable[..., Any], name: str, shown: bool = False) -> Callable[..., Any]:
    def ranged(*args: Any, **kwargs: Any) -> Any:
        with Range(name, shown):
            return call(*args, **kwargs)

    return ranged


def _all_kernels(model: nn.Module) -> list[Any]:
    """The objects that hold the kernels of a model's layers: one, as a rule."""
    found = {id(k): k for module in model.modules() if (k := getattr(module, "kernels", None)) is not None}
    return list(found.values())


def _wrap_compiled(stack: ExitStack, kernels: Any) -> None:
    """Ranges round compiled C++ functions: a profiler sees nothing of them by itself."""
    functions = {name: _ranged(call, f"minillm::{name}") for name, call in kernels._functions.items()}
    stack.enter_context(_hidden(kernels, "_functions", functions))
    if hasattr(kernels, "_linear"):
        stack.enter_context(_hidden(kernels, "_linear", _ranged(kernels._linear, "minillm::linear")))


@contextmanager
def _hidden(thing: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, ``thing.name`` is ``value``; afterwards it is what it was, and where it was."""
    own = vars(thing)
    before = own.get(name, _MISSING)
    own[name] = value
    try:
        yield
    finally:
        if before is _MISSING:
            del own[name]
        else:
            own[name] = before
