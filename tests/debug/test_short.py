"""Any value in a few characters."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from minillm.debug.short import LONGEST, short
from minillm.request import Request, SamplingParams
from minillm.scheduler.plan import PlanRow, StepPlan, StepResult
from minillm.worker.step import Launched


class Colour(Enum):
    RED = "red"


@dataclass
class Wide:
    """More fields than are shown."""

    a: int = 1
    b: list[int] = field(default_factory=lambda: [2])
    c: int = 3
    d: int = 4
    e: int = 5
    f: int = 6
    g: int = 7
    hidden: int = field(default=8, repr=False)


ROWS = [
    PlanRow(0, 0, 4, 2, [5, 6], [], 2, True),
    PlanRow(3, 1, 9, 1, [], [], 3, True),
]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, "7"),
        (None, "None"),
        ("a\nb", "'a\\nb'"),
        ("x" * 100, f"'{'x' * 21}...{'x' * 22}'"),
        (list(range(100)), "[0, 1, 2, 3, 4, 5, 6, 7, ...]"),
        ({0: 12}, "{0: 12}"),
        (torch.zeros(3, 256), "f32[3, 256]"),
        (torch.zeros(3, dtype=torch.bfloat16), "bf16[3]"),
        (torch.tensor([5, 9]), "i64[2] = 5, 9"),
        (torch.tensor(5), "i64[] = 5"),
        (torch.arange(100), "i64[100]"),
        (torch.tensor([True]), "bool[1] = True"),
        (torch.zeros(2, dtype=torch.float8_e4m3fn), "f8_e4m3fn[2]"),
        (torch.zeros(2, 2, device="meta"), "f32[2, 2] meta"),
        (nn.Parameter(torch.zeros(4)), "f32[4]"),
        (np.zeros((2, 3), dtype=np.int32), "i32[2, 3]"),
        (nn.Linear(2, 3), "Linear(in_features=2, out_features=3, bias=True)"),
        (nn.Sequential(nn.Linear(2, 3)), "Sequential()"),
        (Request(2, [1], SamplingParams(), max_tokens=4, seed=0), "r2"),
        (ROWS[0], "r0[4:6]"),
        (StepPlan(1, ROWS), "StepPlan(step 1: r0[4:6] r3[9:10])"),
        (StepPlan(7, ROWS * 8), "StepPlan(step 7: r0[4:6] r3[9:10] r0[4:6] r3[9:10] ... r3[9:10] (16 rows))"),
        (Launched(StepPlan(7, ROWS)), "Launched(step 7)"),
        (StepPlan(1, ROWS[:1], [3]), "StepPlan(step 1: r0[4:6] preempted=[3])"),
        (StepResult({0: [12]}), "StepResult(tokens={0: [12]})"),
        (Wide(), "Wide(a=1, b=[2], c=3, d=4, e=5, f=6, ...)"),
        (Colour.RED, "red"),
        (PurePosixPath("/models/nano"), "'/models/nano'"),
        (object(), "object"),
    ],
)
def test_short(value: Any, expected: str) -> None:
    assert short(value) == expected


def test_short_is_never_long() -> None:
    deep: Any = [[[["x" * 100] * 50] * 50] * 50] * 50
    for value in (deep, dict.fromkeys(range(50), deep), SimpleNamespace(x="y" * 1000)):
        assert len(short(value)) <= LONGEST and "\n" not in short(value)
