"""`minillm bench latency`: requests come as they are said to. No test looks at a time."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny import make_llama

from minillm.bench.latency import Load, measure_latency, serve_over_time, shares
from minillm.bench.traffic import same
from minillm.config import EngineConfig
from minillm.engine.engine import Engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("tiny")
    make_llama(folder)
    return Engine(EngineConfig.from_settings(model=str(folder), num_pages=64, prefix_cache="none"))


def test_moments_are_random_and_the_same_each_time() -> None:
    load = Load(rate=50)
    moments = load.arrivals(4000, seed=3)
    assert moments == load.arrivals(4000, seed=3) != load.arrivals(4000, seed=4)
    gaps = [b - a for a, b in pairwise(moments)]
    assert moments[0] == 0 and min(gaps) >= 0
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 50, rel=0.1)
    spread = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert spread == pytest.approx(mean**2, rel=0.2), "gaps of a Poisson process are exponential"
    assert Load(concurrency=4).arrivals(10, seed=0) is None
    assert (str(load), str(Load(concurrency=4))) == ("50/s", "4 at once")


@pytest.mark.parametrize("most", [1, 3, 8])
def test_as_many_under_way_as_said(engine: Engine, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step, seen = engine.step, []

    def counting() -> object:
        seen.append(len(engine.scheduler.waiting) + len(engine.scheduler.running))
        return step()

    monkeypatch.setattr(engine, "step", counting)
    work = same("x", 8, 5, 4).within(101)
    _, done = serve_over_time(engine, work, most, None)
    assert max(seen) == most and len(done) == 8
    for one in done:
        assert len(one.times) == 4 and one.came <= one.times[0] and one.times == sorted(one.times)


def test_a_request_is_not_served_before_it_comes(engine: Engine) -> None:
    arrivals = [0.0, 0.0, 0.05, 0.06]
    _, done = serve_over_time(engine, same("x", 4, 5, 3).within(101), 4, arrivals)
    assert sorted(one.came for one in done) == arrivals
    assert all(one.times[0] > one.came for one in done)


def test_all_lengths_under_all_loads(engine: Engine) -> None:
    loads = [Load(concurrency=1), Load(concurrency=3), Load(rate=1000.0)]
    results = measure_latency(engine, [4, 9], loads, requests=4, output_len=5)
    assert [(one.prompt_len, one.load) for one in results] == [(n, load) for n in (4, 9) for load in loads]
    assert [one.requests for one in results] == [4, 6, 4] * 2, "twice those under way, at least"
    for one in results:
        assert one.tokens_per_s * one.seconds == pytest.approx(one.requests * 5)
        for times in (one.ttft_ms, one.itl_ms, one.total_ms):
            assert len(times) == 3 and 0 < times[0] <= times[1] <= times[2]
        assert one.total_ms[0] >= one.ttft_ms[0]
    assert json.loads(json.dumps(results[0].as_dict()))["load"] == {"concurrency": 1, "rate": None}
    assert not engine.has_requests and engine.pool.num_free == engine.pool.num_pages


def test_shares() -> None:
    assert shares([i / 1000 for i in range(100)]) == pytest.approx((50, 90, 99))
    assert shares([0.25]) == (250, 250, 250) and shares([]) == (0, 0, 0)


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    make_llama(tmp_path)
    engine = Engine(EngineConfig.from_settings(model=str(tmp_path), device="cuda", dtype="bfloat16", num_pages=256))
    assert torch.cuda.is_available()
    for one in measure_latency(engine, [4, 40], [Load(concurrency=8), Load(rate=500.0)], 16, 8):
        assert one.requests == 16 and one.tokens_per_s * one.seconds == pytest.approx(16 * 8)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "minillm", "bench", "latency", *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=250)


def test_the_command(tmp_path: Path) -> None:
    sizes = ["--prompt-len", "8,16", "--output-len", "4", "--requests", "2"]
    done = bench(*sizes, "--concurrency", "1,2", "--json", str(tmp_path / "x.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert len(found["results"]) == 4 and "first token" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--concurrency", "1,x"], "--concurrency is '1,x'; it takes whole numbers above 0"),
        pytest.param(["--concurrency", "0"], "--concurrency is '0'", marks=pytest.mark.ci),
        pytest.param(["--rate", "-1"], "--rate is '-1'; it takes numbers above 0", marks=pytest.mark.ci),
        (["--prompt-len", "5000"], "at most 2,048"),
        (["--set", "max_model_len=100"], "give --set max_model_len=288"),
        (["--concurrency", "500"], "500 requests at the same time, but the engine runs 256"),
        (["--model", "nano-lama"], "shape with random weights: qwen3-0.6b"),
    ],
)
def test_what_does_not_go_is_said(arguments: list[str], says: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_a_file_that_cannot_be_written_is_said_before_anything_runs(tmp_path: Path) -> None:
    done = bench("--json", str(tmp_path / "none" / "x.json"))
    assert done.returncode == 2 and "cannot be written" in done.stderr and "loading" not in done.stderr
