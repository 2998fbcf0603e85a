"""`minillm bench host`: every moment goes to one part, the engine is afterwards as it was. No test looks at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import make_llama

import minillm.worker.runner as runner_module
from minillm.bench import host
from minillm.bench.host import DEVICE, PARTS, Stopwatch, measure_host, watched
from minillm.config import EngineConfig
from minillm.engine.engine import Engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_llama(folder)
    return folder


def test_time_goes_to_the_innermost_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(host.time, "perf_counter", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    watch = Stopwatch()
    inner = watch.timed("inner", lambda: passes(3))

    def work() -> str:
        passes(1)
        inner()
        passes(10)
        inner()
        return "done"

    assert watch.timed("outer", work)() == "done"
    passes(100)  # nobody's
    with pytest.raises(ZeroDivisionError):
        watch.timed("failing", lambda: passes(7) or 1 / 0)()
    assert dict(watch.spent) == {"outer": 11, "inner": 6, "failing": 7}


@pytest.mark.parametrize("overlap", [False, True])
def test_parts_of_a_step(folder: Path, overlap: bool) -> None:
    engine = Engine(EngineConfig.from_settings(model=str(folder), num_pages=64, async_scheduling=overlap))
    before = {owner: set(vars(owner)) for owner in (engine, engine.scheduler, engine.runner, engine.model)}
    sample = runner_module.sample_in_parts
    found = measure_host(engine, 3, steps=5)
    assert (found.requests, found.steps) == (3, 5)
    assert all(getattr(found, part) > 0 for part in (*PARTS, DEVICE))
    assert found.host == pytest.approx(sum(getattr(found, part) for part in PARTS))
    assert found.step == pytest.approx(found.host + found.device)
    assert before == {owner: set(vars(owner)) for owner in before} and runner_module.sample_in_parts is sample
    assert not engine.has_requests
    assert measure_host(engine, 2, steps=3).requests == 2, "and again, in the same engine"


def test_waiting_for_a_device_is_not_the_hosts(folder: Path) -> None:
    """An event like a GPU's is waited for in ``read``: that is the device's time, and it is still waited for."""
    engine = Engine(EngineConfig.from_settings(model=str(folder), num_pages=64))
    waited = []

    class Event:
        def synchronize(self) -> None:
            waited.append(True)

    launch = engine.runner.launch

    def launch_with_event(plan: object) -> object:
        launched = launch(plan)
        launched.ready = Event()
        return launched

    engine.runner.launch = launch_with_event
    engine.add_request([5, 6, 7])
    with watched(engine) as watch:
        engine.step()
    assert waited == [True] and watch.spent[DEVICE] > 0


def test_what_does_not_go(folder: Path) -> None:
    engine = Engine(EngineConfig.from_settings(model=str(folder), num_pages=16, max_num_seqs=4))
    with pytest.raises(ValueError, match="5 requests at the same time, but the engine runs 4; ask for fewer"):
        measure_host(engine, 5, steps=2)
    with pytest.raises(ValueError, match="do not fit into the context limit or the KV cache"):
        measure_host(engine, 1, steps=300)
    assert not engine.has_requests


@pytest.mark.gpu
@pytest.mark.parametrize("eager", [False, True])
def test_on_a_gpu(folder: Path, eager: bool) -> None:
    settings = {"device": "cuda", "dtype": "bfloat16", "num_pages": 256, "enforce_eager": eager}
    found = measure_host(Engine(EngineConfig.from_settings(model=str(folder), **settings)), 16, steps=32)
    assert found.device > 0 and found.host > 0


def test_the_command(folder: Path) -> None:
    command = [sys.executable, "-m", "minillm", "bench", "host", "--model", str(folder), "--requests", "1,3"]
    done = subprocess.run([*command, "--steps", "4"], capture_output=True, encoding="utf-8", timeout=250)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [one["requests"] for one in found["results"]] == [1, 3]
    wrong = subprocess.run([*command, "--steps", "0"], capture_output=True, encoding="utf-8", timeout=250)
    assert wrong.returncode == 2 and "--steps" in wrong.stderr
