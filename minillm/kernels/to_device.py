"""Numbers that the host works out, on their way to the device."""

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The same memory on a CPU. For a GPU it is pinned first: only from there does a large copy not wait for all that
    the GPU has to do before."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
