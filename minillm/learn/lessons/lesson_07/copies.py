"""What a probe shows is live, and the next step writes over it: copies of its tensors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from minillm.probe import Event, listen


@contextmanager
def noting(name: str, fits: Callable[[Event], bool] = lambda event: True) -> Iterator[list[dict[str, Any]]]:
    """Inside, the list grows by a dict for each event of the probe that fits."""
    found: list[dict[str, Any]] = []

    def note(event: Event) -> None:
        if fits(event):
            found.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in event.values.items()})

    with listen(name, note):
        yield found
