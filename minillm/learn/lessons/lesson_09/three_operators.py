"""Three operators, recorded: what a replay sees of what has changed since."""

from typing import Any

import torch

from minillm.debug.views.drawing import Drawing
from minillm.debug.views.table import Cells, Col, drawn
from minillm.kernels.torch.kernels import TorchKernels
from minillm.worker.capture import NotRecordable, TapeRecorder, recorder_for


class ThreeOperators:
    """``x * factor + bias``, recorded: a CUDA graph on a GPU, a tape on a CPU. Change anything, then compare."""

    def __init__(self, device: torch.device) -> None:
        self.x = torch.tensor([1.0, 2.0], device=device)
        self.factor, self.bias = 10, torch.ones(2, device=device)
        self._calls = 0
        self._rows: list[Cells] = []
        self.recording, self.result = recorder_for(device, TorchKernels()).record(self.compute)
        self._calls_before = self._calls

    def compute(self) -> torch.Tensor:
        self._calls += 1
        return self.x * self.factor + self.bias

    def compare(self, what: str) -> None:
        """A replay beside the function itself."""
        self.recording.replay()
        replayed, computed = self.result.tolist(), self.compute().tolist()
        self._rows.append([what, str(computed), str(replayed), "yes" if replayed == computed else "no"])

    @property
    def ran(self) -> int:
        """How often the function itself ran in the replays."""
        return self._calls - self._calls_before - len(self._rows)

    def in_a_table(self) -> Drawing:
        columns = [Col("what changed", wraps=True), Col("Python gives"), Col("a replay gives"), Col("seen")]
        return drawn(columns, self._rows)


def why_not(function: Any) -> str:
    """Why this cannot be recorded, in the recorder's words."""
    try:
        TapeRecorder(TorchKernels()).record(function)
    except NotRecordable as error:
        return str(error).partition(":")[0]
    return ""
