"""Record a function once, replay what it did on the same memory: a CUDA graph on a GPU, a tape on a CPU.

Neither keeps any Python. They keep a list of operators, each with the very tensors and numbers that it got. So a
replay sees what is *written* into those tensors, and nothing else: a number from Python is as it was at recording, a
tensor that was replaced by another is not looked at, and what depends on values (`.item()`, a mask as an index) cannot
be recorded.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from minillm.attention.backend import NotRecordable
from minillm.kernels.torch.kernels import TorchKernels

Result = TypeVar("Result")
READS = {"tolist", "numpy", "item", "__bool__", "__int__", "__float__", "__index__", "__array__"}  # on the host


class Recording(Protocol):
    def replay(self) -> None: ...


class Recorder(ABC):
    """Records functions that run one at a time, so that the memory of one can be used by the next."""

    @abstractmethod
    def record(self, function: Callable[[], Result]) -> tuple[Recording, Result]:
        """Call ``function`` once or twice; what was recorded, and what it returned: each replay writes its results
        there."""


def recorder_for(device: torch.device, kernels: TorchKernels) -> Recorder:
    """The one that works on this device. kernels: those that the functions to be recorded use."""
    return GraphRecorder() if device.type == "cuda" else TapeRecorder(kernels)


class GraphRecorder(Recorder):
    """CUDA graphs, all in the memory pool of the first."""

    def __init__(self) -> None:
        self._pool: Any = None

    def record(self, function: Callable[[], Result]) -> tuple[Recording, Result]:
        function()  # compiles what is not compiled yet, and takes memory that is kept
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = function()
        self._pool = graph.pool()
        return graph, result


class Pool:
    """The memory in which tapes put what their operators make, one place after the other: tapes that take turns share
    it. A tape that needs a larger place than there is gets a new one."""

    def __init__(self) -> None:
        self._places: list[Tensor] = []
        self._next = 0

    def begin(self) -> None:
        """From here on another tape takes places, from the first one on."""
        self._next = 0

    def place(self, made: Tensor) -> Tensor:
        """A tensor like ``made``, with its numbers, in the next place."""
        if self._next == len(self._places):
            self._places.append(made)
        elif self._places[self._next].untyped_storage().nbytes() < made.untyped_storage().nbytes():
            self._places[self._next] = made
        storage = self._places[self._next].untyped_storage()
        self._next += 1
        if storage.data_ptr() == made.untyped_storage().data_ptr():
            return made
        placed = torch.empty(0, dtype=made.dtype)
        placed.set_(storage, made.storage_offset(), made.size(), made.stride())
        return placed.copy_(made)

    @property
    def num_bytes(self) -> int:
        return sum(place.untyped_storage().nbytes() for place in self._places)


class Tape:
    """Calls in order: the function, what it got, and the tensors that must hold what it makes."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], tuple, dict[str, Any], list[Tensor]]] = []
        self.kept: list[Tensor] = []  # views and empty tensors: no call makes them again, their memory is used

    def replay(self) -> None:
        for function, args, kwargs, outs in self.calls:
            made = function(*args, **kwargs)
            if outs:
                for out, new in zip(outs, _tensors(made)):
                    out.copy_(new)

    def __len__(self) -> int:
        return len(self.calls)


class TapeRecorder(Recorder):
    """Tapes, all in one pool."""

    def __init__(self, kernels: TorchKernels) -> None:
        self.kernels, self.pool = kernels, Pool()

    def record(self, function: Callable[[], Result]) -> tuple[Tape, Result]:
        self.pool.begin()
        writer = _Writer(Tape(), self.pool)
        with ExitStack() as stack:
            stack.enter_context(self.kernels.launches_go_through(writer.launch))
            stack.enter_context(_NoReading())
            stack.enter_context(writer)
            result = function()
        return writer.tape, result


class _Writer(TorchDispatchMode):
    """Every operator of torch comes by here on its way: it is run, and written on the tape."""

    def __init__(self, tape: Tape, pool: Pool) -> None:
        super().__init__()
        self.tape, self.pool = tape, pool

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        _refuse(func, args)
        made = func(*args, **kwargs)
        outs = _tensors(made)
        if func._schema.is_mutable:  # what it makes is what it was given
            self.tape.calls.append((func, args, kwargs, []))
            return made
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, tuple(kwargs.values())))}
        if all(out.untyped_storage()._cdata in given for out in outs):  # views, which stay what they are
            self.tape.kept += outs
            return made
        placed = [self.pool.place(out) for out in outs]
        if "empty" in func._schema.name:  # memory to be written by whoever asked for it
            self.tape.kept += placed
        else:
            self.tape.calls.append((func, args, kwargs, placed))
        return placed[0] if isinstance(made, Tensor) else type(made)(placed)

    def launch(self, function: Callable[..., None], *args: Any) -> None:
        """A compiled function, which writes into memory that it is told of."""
        with _disable_current_modes():
            function(*args)
        self.tape.calls.append((function, args, {}, []))


# torch has wrapped it, so that its compiler leaves it alone; that would bring in the compiler, which takes seconds.
_wrapped: Any = _Writer.__torch_dispatch__
_Writer.__torch_dispatch__ = getattr(_wrapped, "__wrapped__", _wrapped)  # type: ignore[method-assign]


class _NoReading(TorchFunctionMode):
    """On a CPU, numbers could be read out of tensors past the dispatcher. A GPU would refuse, and so does this."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if (name := getattr(func, "__name__", "")) in READS:
            raise NotRecordable(_why(f"Tensor.{name}()"))
        return func(*args, **(kwargs or {}))


def _refuse(func: Any, args: tuple) -> None:
    """NotRecordable for an operator whose result, or its shape, the host must know."""
    tags = func.tags
    masks = any(tensor.dtype in (torch.bool, torch.uint8) for tensor in _tensors(args[1:2]))
    by_index = func._schema.name in ("aten::index", "aten::index_put", "aten::index_put_")
    unknown = masks if by_index else torch.Tag.dynamic_output_shape in tags
    if unknown or torch.Tag.data_dependent_output in tags:
        raise NotRecordable(_why(func._schema.name.replace("aten::", "torch's ")))


def _why(what: str) -> str:
    return (
        f"{what} cannot be recorded: its result depends on numbers in a tensor, and in a replay no Python runs that "
        f"could look at them; compute it before the step and write it into a buffer, or make the engine with "
        f"enforce_eager=True"
    )


def _tensors(found: Any) -> list[Tensor]:
    """All tensors in a result, or in arguments."""
    if isinstance(found, Tensor):
        return [found] if found.layout == torch.strided else []  # oneDNN's packed weights show no memory
    if isinstance(found, list | tuple):
        return [tensor for one in found for tensor in _tensors(one)]
    return []
