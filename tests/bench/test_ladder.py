"""`minillm bench ladder`: each rung is settings of the engine, and none changes a token. No test looks at a time."""

import dataclasses
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from tiny import make_llama

from minillm import LLM, SamplingParams
from minillm.bench.climb import Climbed, climb
from minillm.bench.ladder import LADDER, Ground, check_not_turned, choose_rungs, rungs, stand, usual
from minillm.bench.ladder_report import decades, ladder_svg, print_ladder
from minillm.bench.traffic import talk, traffic
from minillm.config import EngineConfig

NAMES = [
    "no KV cache", "contiguous KV cache", "paged KV cache", "static batching", "continuous batching", "chunked prefill",
    "prefix cache", "kernels", "CUDA graphs", "overlap",
]  # fmt: skip
WORK = talk(6, systems=2, system_len=24, question=8, answer=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_llama(folder)
    return folder


@pytest.fixture
def ground(folder: Path) -> Ground:
    return stand({"device": "cpu"}, {"model": str(folder)}, WORK)


def test_the_rungs_are_settings_of_the_engine() -> None:
    known = {field.name for field in dataclasses.fields(EngineConfig)}
    assert [rung.name for rung in LADDER] == NAMES
    for rung in LADDER:
        assert set(rung.settings) <= known and set(rung.shown) <= set(rung.settings)


def test_each_rung_stands_on_those_below(ground: Ground) -> None:
    found = {rung.name: settings for rung, settings, why_not in rungs(ground) if why_not is None}
    assert (
        found["no KV cache"]["reuse_kv"] is False and found["overlap" if "overlap" in found else "kernels"]["reuse_kv"]
    )
    assert found["contiguous KV cache"]["page_size"] == "max_model_len" and found["paged KV cache"]["page_size"] == 16
    assert found["paged KV cache"]["max_num_seqs"] == 1 and found["static batching"]["max_num_seqs"] == 3
    assert (found["static batching"]["batching"], found["prefix cache"]["batching"]) == ("static", "continuous")
    budgets = [found[name]["max_num_batched_tokens"] for name in ("continuous batching", "chunked prefill")]
    assert budgets[0] >= 3 * WORK.longest and budgets[1] < min(map(len, WORK.prompts))
    for settings in found.values():
        EngineConfig.from_settings(**settings)


def test_on_a_gpu_nothing_is_left_out_but_what_torch_lacks(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minillm.bench.ladder.choose_kernels", lambda *_: None)
    there = dataclasses.replace(ground, device=torch.device("cuda"))
    found = {rung.name: settings for rung, settings, _ in rungs(there)}
    assert list(found) == NAMES
    assert (found["kernels"]["kernels"], found["kernels"]["attention_backend"]) == ("triton", "auto")
    assert found["overlap"]["async_scheduling"] is True and found["overlap"]["enforce_eager"] is False
    assert found["kernels"]["async_scheduling"] is False and found["kernels"]["enforce_eager"] is True


def test_what_a_machine_cannot_is_left_out_with_its_reason(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("no compiler here")

    monkeypatch.setattr("minillm.bench.ladder.choose_kernels", refuse)
    reasons = {rung.name: why_not for rung, _, why_not in rungs(ground) if why_not}
    assert reasons == {
        "kernels": "no compiler here",
        "CUDA graphs": "there are no CUDA graphs on a cpu",
        "overlap": "on a CPU there is nobody else to work meanwhile",
    }


def test_every_rung_makes_the_same_tokens(ground: Ground, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = climb(ground, NAMES, rounds=1)
    assert [one.name for one in results] == NAMES
    measured = [one for one in results if not one.skipped]
    assert len(measured) >= 7 and all(one.same_tokens == 1 for one in measured)
    assert (measured[0].before, measured[0].first) == (1, 1)
    for below, one in pairwise(measured):
        assert one.before == pytest.approx(one.tokens_per_s / below.tokens_per_s)
        assert one.first == pytest.approx(one.tokens_per_s / measured[0].tokens_per_s)
        assert one.ttft_ms > 0 and one.itl_p99_ms > 0
    assert json.loads(json.dumps([one.as_dict() for one in results]))
    print_ladder(results, "title")
    out = capsys.readouterr().out
    assert "page_size=16" in out and "CUDA graphs: left out, there are no CUDA graphs on a cpu" in out


def test_the_first_rung_makes_the_engines_own_tokens(ground: Ground, folder: Path) -> None:
    """Those of `LLM` with nothing set at all."""
    from minillm.bench.throughput import serve
    from minillm.engine.engine import Engine

    _, settings, _ = next(rungs(ground))
    work = WORK.within(101)
    ours = serve(Engine(EngineConfig.from_settings(**settings)), work, temperature=0).tokens
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in work.output_lens]
    outputs = LLM(str(folder), device="cpu").generate(work.prompts, params, use_tqdm=False)
    assert ours == [output.outputs[0].token_ids for output in outputs]


def test_only_some(ground: Ground) -> None:
    results = climb(ground, choose_rungs(["prefix cache", "static batching"]), rounds=2)
    assert [one.name for one in results] == ["static batching", "prefix cache"]
    assert results[1].before == results[1].first and results[1].settings["batching"] == "continuous"


def test_what_does_not_go(folder: Path) -> None:
    with pytest.raises(ValueError, match="no rung 'paging'; it has no KV cache, contiguous KV cache, paged KV cache"):
        choose_rungs(["paging"])
    for name in ("page_size", "block_size", "enable_prefix_caching"):
        with pytest.raises(ValueError, match=f"--set has {name}, which the ladder turns on the way"):
            check_not_turned({"dtype": "float32", name: 1})
    with pytest.raises(ValueError, match=r"'talk48' has a request of .* at most 256; choose another workload or model"):
        stand({}, {"model": str(folder)}, traffic("talk48"))


def test_what_is_measured_where_nothing_is_named() -> None:
    assert usual({"device": "cpu"}) == ("nano-llama", "talk24", 1)
    assert usual({"device": "cuda:1"}) == ("qwen3-0.6b", "talk48", 2)


def test_the_workload_has_something_for_every_rung() -> None:
    for name in ("talk24", "talk48", "talk256"):
        work = traffic(name)
        beginnings = {tuple(prompt[:96]) for prompt in work.prompts}
        assert len(beginnings) < len(work.prompts) / 4, "prompts that begin alike"
        assert max(work.output_lens) > 2 * min(work.output_lens), "answers that end at different times"


def test_the_picture() -> None:
    speeds = {"no KV cache": 42, "paged KV cache": 41, "static batching": 200, "chunked prefill": 150, "kernels": 3100}
    results, before = [], 42.0
    for name, speed in speeds.items():
        results.append(Climbed(name, "x=1 & <y>", tokens_per_s=speed, before=speed / before, first=speed / 42))
        before = speed
    results.append(Climbed("overlap", "async_scheduling=True", skipped="no GPU"))
    root = ElementTree.fromstring(ladder_svg(results, "a title & more"))
    texts = {one.text for one in root.iter() if one.tag.endswith("text")}
    assert {*speeds, "overlap", "not on this machine", "3,100", "4.88×", "0.75×", "10", "10,000"} <= texts
    bars = [one for one in root.iter() if one.tag.endswith("rect")][1:-3]  # not the ground, nor the key
    assert len(bars) == 4
    faster, slower = float(bars[1].get("width", 0)), float(bars[2].get("width", 0))
    assert faster > slower and bars[1].get("fill") != bars[2].get("fill") != bars[0].get("fill")
    assert decades([42, 3100]) == (1, 4) and decades([10]) == (1, 2)
    assert ElementTree.fromstring(ladder_svg(results[-1:], "nothing could be measured"))


def test_a_model_without_graphs_still_overlaps(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine says why it records none, and the rung above is measured all the same."""
    monkeypatch.setattr("minillm.bench.climb.rungs", lambda _: [(LADDER[i], settings, None) for i in (6, 8, 9)])
    _, settings, _ = list(rungs(ground))[6]
    settings |= {"enforce_eager": False, "attention_backend": "blockwise"}
    results = climb(ground, NAMES, rounds=2)
    assert [one.skipped for one in results] == [
        None,
        "attention_backend 'blockwise' works some of it out on the host",
        None,
    ]
    assert results[2].before == pytest.approx(results[2].tokens_per_s / results[0].tokens_per_s)


@pytest.mark.gpu
def test_on_a_gpu(folder: Path) -> None:
    found = climb(stand({"dtype": "bfloat16"}, {"model": str(folder)}, WORK), NAMES, rounds=1)
    assert [one.name for one in found if one.skipped] == [] and all(one.tokens_per_s > 0 for one in found)


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "minillm", "bench", "ladder", "--workload", "quick", "--set", "device=cpu"]
    only = ["--only", "paged KV cache", "--only", "continuous batching", "--only", "overlap"]
    files = ["--json", str(tmp_path / "x.json"), "--plot", str(tmp_path / "x.svg")]
    done = subprocess.run([*command, *only, *files], capture_output=True, encoding="utf-8", timeout=250)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in found["results"]] == ["paged KV cache", "continuous batching", "overlap"]
    assert "no KV cache" not in done.stdout and ElementTree.parse(tmp_path / "x.svg")
    wrong = subprocess.run([*command, "--only", "graphs"], capture_output=True, encoding="utf-8", timeout=250)
    assert wrong.returncode == 2 and "CUDA graphs, overlap" in wrong.stderr
