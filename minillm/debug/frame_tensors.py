"""The tensors among a frame's variables, and one level inside them."""

import dataclasses
from typing import Any


def tensors_in(name: str, value: Any, deeper: bool) -> list[tuple[str, str, str]]:
    """``(name, type, shape)`` of a value that is a tensor or an array, or of those one level inside it."""
    if _is_tensor(value):
        device = getattr(getattr(value, "device", None), "type", "cpu")
        kind = str(value.dtype).removeprefix("torch.") + ("" if device == "cpu" else f" {value.device}")
        return [(name, kind, str(list(value.shape)))]
    if not deeper or isinstance(value, type):
        return []
    inside: dict[str, Any] = {}
    if dataclasses.is_dataclass(value):  # hasattr: a field may be set later (ForwardBatch.rope)
        fields = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
        inside = {f"{name}.{field}": getattr(value, field) for field in fields}
    elif isinstance(value, tuple | list) and len(value) <= 8:
        inside = {f"{name}[{i}]": part for i, part in enumerate(value)}
    elif type(value) is dict and len(value) <= 32:
        inside = {f"{name}[{key!r}]": part for key, part in value.items()}
    return [row for label, part in inside.items() for row in tensors_in(label, part, deeper=False)]


def _is_tensor(value: Any) -> bool:
    """A tensor of torch or an array of numpy, without importing either."""
    library = type(value).__module__.partition(".")[0]
    looks_so = library in ("torch", "numpy") and hasattr(value, "dtype") and hasattr(value, "shape")
    return looks_so and not isinstance(value, type)
