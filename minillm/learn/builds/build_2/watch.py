"""Who reads and writes what: the memory that an interpreted kernel touches, and the tensors that torch makes beside it.

Triton's interpreter computes with addresses as they are. So each load and store can be looked at before it is made: to
count, and to tell of one that goes nowhere before it ends the process.
"""

from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Made(TorchDispatchMode):
    """Keeps every tensor with memory of its own that torch makes inside, as name -> tensor."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self._memory = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, Tensor) and (at := one.untyped_storage().data_ptr()) not in self._memory:
                self._memory.add(at)
                self.tensors.append(one)
        return made

    @property
    def num_bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors)


class Watch:
    """``with Watch(cache, given, out) as watch``: what interpreted kernels do inside.

    cache [P, S, 2, Hkv, D]: keys and values. given: other tensors that may be read, by name. out: may be written, too.
    reads: how often each number of the cache was loaded. most: numbers of it that one load took. made: what torch made
    meanwhile. AssertionError tells of a load or store that is none of theirs.
    """

    def __init__(self, cache: Tensor, given: dict[str, Tensor], out: Tensor) -> None:
        self.cache, self.given, self.out = cache, given, out
        self.reads = np.zeros(cache.numel(), dtype=np.int32)
        self.most = 0
        self.made = Made([cache, out, *given.values()])

    def __enter__(self) -> "Watch":
        from triton.runtime.interpreter import interpreter_builder

        self._builder: Any = interpreter_builder
        self._load, self._store = self._builder.create_masked_load, self._builder.create_masked_store
        self._builder.create_masked_load, self._builder.create_masked_store = self._see_load, self._see_store
        self.made.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.made.__exit__(kind, error, trace)
        del self._builder.create_masked_load, self._builder.create_masked_store  # the class's own are there again

    def _see_load(self, pointers: Any, mask: Any, *rest: Any) -> Any:
        addresses = _wanted(pointers, mask)
        low, high = _memory(self.cache)
        inside = (addresses >= low) & (addresses < high)
        if inside.any():
            np.add.at(self.reads, (addresses[inside] - low) // self.cache.itemsize, 1)
            self.most = max(self.most, int(inside.sum()))
        elsewhere = addresses[~inside]
        self._allow("load", elsewhere, [*self.given.values(), self.out, *self.made.tensors])
        return self._load(pointers, mask, *rest)

    def _see_store(self, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        self._allow("store", _wanted(pointers, mask), [self.out, *self.made.tensors])
        return self._store(pointers, value, mask, *rest)

    def _allow(self, what: str, addresses: np.ndarray, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            low, high = _memory(tensor)
            addresses = addresses[(addresses < low) | (addresses >= high)]
        if not len(addresses):
            return
        where = "outside of all tensors"
        for name, tensor in {"the keys and values": self.cache, **self.given}.items():
            low, high = _memory(tensor)
            if low <= addresses[0] < high:
                where = f"in {name}"
        masked = ". Is the mask right, and what stands behind a request's last page left alone?"
        raise AssertionError(f"the kernel's tl.{what} wants {len(addresses)} numbers {where}{masked}")

    @property
    def num_read(self) -> int:
        """Numbers of the cache that were loaded, each as often as it was."""
        return int(self.reads.sum())


def _wanted(pointers: Any, mask: Any) -> np.ndarray:
    """The addresses that are not masked out."""
    addresses, chosen = np.broadcast_arrays(pointers.data, mask.data)
    return addresses[chosen.astype(bool)].astype(np.int64)


def _memory(tensor: Tensor) -> tuple[int, int]:
    """The first address, and the one behind the last."""
    if not tensor.numel():
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.itemsize
