"""The seam between engine and worker: what passes there is a plan of plain data, and a core that knows ids only."""

import ast
import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny import Oracle
from workload import Job, assert_idle, make_engine, run_jobs

from minillm.config import EngineConfig
from minillm.engine.core import EngineCore
from minillm.request import Request, SamplingParams
from minillm.scheduler.plan import StepPlan, StepResult
from minillm.setup import Setup
from minillm.text.tokenizer import NoTokenizer
from minillm.worker import executor as executor_module
from minillm.worker.executor import UniExecutor

ROOT = Path(__file__).resolve().parent.parent.parent
JOBS = [
    Job((5, 6, 7, 8, 9, 10, 11), 9),
    Job((5, 6, 7, 8, 9, 10, 12), 6, temperature=0.8, seed=3, arrives=1, logprobs=2),
    Job((50, 3), 12, arrives=2, repetition=1.3, bias=((4, 1.0),), min_tokens=3),
    Job((5, 6, 7, 8, 9, 10, 11, 20), 5, arrives=4, n=2, temperature=1.0, seed=5),
    Job((9, 9, 9), 8, arrives=3, aborted=5),
]


def encode_array(value: Any) -> Any:
    """A grammar's mask as bytes; whatever else is no plain data is refused."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.tobytes()]
    raise NotImplementedError(f"{type(value).__name__} is no plain data")


def decode_array(kind: type, value: Any) -> Any:
    return np.frombuffer(value[1], dtype=value[0])


class Wired(UniExecutor):
    """Two workers, as two ranks would be: one gets the plan, the other what came over a wire. They must agree."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.far = UniExecutor(setup)
        self.sent = 0

    def launch(self, plan: StepPlan) -> Any:
        wire = msgspec.msgpack.encode(plan, enc_hook=encode_array)
        self.sent += len(wire)
        far = self.far.launch(msgspec.msgpack.decode(wire, type=StepPlan, dec_hook=decode_array))
        return Both(super().launch(plan), far)


@dataclasses.dataclass
class Both:
    near: Any
    far: Any

    @property
    def plan(self) -> StepPlan:
        return self.near.plan

    def read(self) -> StepResult:
        near, far = self.near.read(), self.far.read()
        assert near == far
        return near


@pytest.mark.parametrize("settings", [{}, {"async_scheduling": True}, {"page_size": 4, "num_pages": 9}])
def test_a_plan_that_came_over_a_wire_computes_the_same(
    oracle: Oracle, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_jobs(make_engine(oracle.folder, **settings), JOBS)
    monkeypatch.setattr(executor_module, "UniExecutor", Wired)
    engine = make_engine(oracle.folder, **settings)
    wired = engine.core.executor
    assert isinstance(wired, Wired)
    got = run_jobs(engine, JOBS)
    assert [got.tokens(i) for i in range(4)] == [expected.tokens(i) for i in range(4)]
    assert wired.sent > 1000
    assert_idle(engine)


def test_a_core_needs_no_text(oracle: Oracle) -> None:
    """Requests in, token ids out: nobody between them has a tokenizer that knows a word."""
    setup = Setup.of(EngineConfig(model=str(oracle.folder), num_pages=32))
    core = EngineCore(setup, NoTokenizer(setup.folder))
    requests = [Request(i, prompt, SamplingParams(temperature=0), 6, seed=i) for i, prompt in enumerate(([5, 6], [7]))]
    for request in requests:
        core.add([request])
    advanced: list[int] = []
    while not core.idle:
        done = core.step()
        advanced += [request.id for request in done[2]] if done else []
    assert [request.output_ids for request in requests] == [oracle.greedy([5, 6], 6), oracle.greedy([7], 6)]
    assert sorted(advanced) == [0] * 6 + [1] * 6


def test_nobody_between_executor_and_model_knows_requests_or_text() -> None:
    """`Request` and the text room are for those above: a worker is told what a step needs in the plan."""
    for path in sorted((ROOT / "minillm" / "worker").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith(("minillm.text", "minillm.engine")), path.name
                assert "Request" not in {alias.name for alias in node.names}, path.name
