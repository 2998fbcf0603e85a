"""Any value of the engine in a few characters, for log lines and headers."""

import dataclasses
import enum
import reprlib
from pathlib import PurePath
from typing import Any

DTYPES = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}
LONGEST = 120  # characters
MOST_ROWS = 6  # of a step's plan


def short(value: Any) -> str:
    """``f32[3, 256]`` for a tensor, ``i64[2] = 5, 9`` for a small one of ints, ``r2`` for request 2, long lists cut."""
    text = _short.repr(value).replace("\n", " ")
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


class _Short(reprlib.Repr):
    """`reprlib` asks for ``repr_<name of the type>``, so that tensors and requests are known without importing them."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 48, 60
        self.maxlist = self.maxtuple = self.maxdeque = self.maxdict = self.maxset = self.maxfrozenset = 8

    def repr_Tensor(self, x: Any, _level: int) -> str:
        kind, size = _split(str(x.dtype).removeprefix("torch."))
        text = f"{DTYPES.get(kind, kind)}{size}{list(x.shape)}"
        # Values only where looking costs nothing: not from a GPU, which would have to stop for it.
        if x.device.type == "cpu" and x.dim() <= 1 and x.numel() <= self.maxlist and not x.dtype.is_floating_point:
            text += f" = {', '.join(map(str, x.reshape(-1).tolist()))}"
        return text if x.device.type == "cpu" else f"{text} {x.device}"

    repr_Parameter = repr_Tensor

    def repr_ndarray(self, x: Any, _level: int) -> str:
        kind, size = _split(str(x.dtype))
        return f"{DTYPES.get(kind, kind)}{size}{list(x.shape)}"

    def repr_tensor(self, x: Any, level: int) -> str:
        """One of Triton's, in its interpreter: a numpy array is in it, of one number for a scalar."""
        data = getattr(getattr(x, "handle", None), "data", None)
        if data is None:
            return self.repr_instance(x, level)
        if x.dtype.scalar.is_ptr():
            return f"addresses{list(data.shape)}" if data.size > 1 else "an address"
        return f"{data.item():g}" if data.size == 1 else self.repr_ndarray(data, level)

    def repr_Request(self, x: Any, _level: int) -> str:
        return f"r{x.id}"

    def repr_PlanRow(self, x: Any, _level: int) -> str:
        return f"r{x.request_id}[{x.start}:{x.start + x.count}]"

    def repr_StepPlan(self, x: Any, level: int) -> str:
        preempted = f" preempted={x.preempted}" if x.preempted else ""
        rows = [self.repr1(row, level - 1) for row in x.rows]
        if len(rows) > MOST_ROWS:
            rows = [*rows[: MOST_ROWS - 2], "...", rows[-1], f"({len(rows)} rows)"]
        return f"StepPlan(step {x.step}: {' '.join(rows)}{preempted})"

    def repr_Queued(self, x: Any, _level: int) -> str:
        """A step that was launched: which one, for the host is at another."""
        return f"{type(x).__name__}(step {x.plan.step})"

    repr_Launched = repr_Queued

    def repr_ForwardBatch(self, x: Any, _level: int) -> str:
        return f"ForwardBatch(T={x.num_tokens} R={x.num_requests})"

    def repr_instance(self, x: Any, level: int) -> str:
        """Everything that reprlib has no word for."""
        if isinstance(x, enum.Enum):
            return str(x.value)
        if isinstance(x, PurePath):
            return self.repr_str(str(x), level)
        if hasattr(x, "extra_repr"):  # a module: printed whole, a model fills the screen
            return f"{type(x).__name__}({x.extra_repr()})"
        own = type(x).__repr__
        if own is object.__repr__:
            return type(x).__name__
        if dataclasses.is_dataclass(x) and hasattr(own, "__wrapped__"):  # a repr that dataclass wrote, not one of ours
            if level <= 0:
                return f"{type(x).__name__}(...)"
            fields = [f for f in dataclasses.fields(x) if f.repr]
            shown = [f"{f.name}={self.repr1(getattr(x, f.name), level - 1)}" for f in fields[:6]]
            return f"{type(x).__name__}({', '.join(shown + ['...'] * (len(fields) > 6))})"
        return super().repr_instance(x, level)


def _split(dtype: str) -> tuple[str, str]:
    """``"float32"`` -> ``("float", "32")``, ``"float8_e4m3fn"`` -> ``("float", "8_e4m3fn")``."""
    kind = dtype.rstrip("0123456789") if "_" not in dtype else dtype.partition("_")[0].rstrip("0123456789")
    return kind, dtype[len(kind) :]


_short = _Short()
