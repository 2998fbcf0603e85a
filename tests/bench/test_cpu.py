"""`minillm bench`: the work is what it says, the result can be read by a program. No test looks at a time."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import make_llama

from minillm.bench import probe_cost
from minillm.bench.checkpoints import Checkpoints
from minillm.bench.cpu import agreement, bytes_per_step
from minillm.bench.shapes import SHAPES, as_llama
from minillm.bench.workloads import CPU, CPU_QUICK, Workload, choose
from minillm.debug.catalogue import catalogue, locations, sites
from minillm.hub import resolve_model

OWN = ("max_position_embeddings", "bos_token_id", "eos_token_id")  # what the benchmark decides


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_llama(folder)
    return folder


def bench(*arguments: str) -> tuple[str, dict]:
    done = subprocess.run(
        [sys.executable, "-m", "minillm", "bench", *arguments], capture_output=True, encoding="utf-8", timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


def test_quick_on_a_tiny_model(tiny: Path, tmp_path: Path) -> None:
    out, found = bench("cpu", "--quick", "--rounds", "1", "--model", str(tiny), "--json", str(tmp_path / "x.json"))
    assert found == json.loads((tmp_path / "x.json").read_text())
    assert {"torch", "transformers", "threads", "cpu"} <= set(found)
    assert [result["workload"]["name"] for result in found["results"]] == ["nano-1", "nano-16"]
    for result in found["results"]:
        assert result["same_tokens"] == 1, "float32: both engines choose the same tokens"
        ours, theirs = result["minillm"], result["transformers"]
        assert result["ratio"] == pytest.approx(theirs["best_s"] / ours["best_s"])
        generated = result["workload"]["requests"] * result["workload"]["output_len"]
        assert ours["tokens_per_s"] * ours["best_s"] == pytest.approx(generated)
    assert "nano-16" in out


@pytest.mark.ci
def test_probe_cost_on_a_tiny_model(tiny: Path) -> None:
    _, found = bench("probes", "--rounds", "1", "--tokens", "4", "--model", str(tiny))
    assert found["passed"] > 0 and len(found["with_s"]) == len(found["without_s"]) == 1


def test_the_copy_without_probes_has_none(tmp_path: Path) -> None:
    # Those in kernels are comments, which nobody pays for.
    in_engine = sum(len(locations()[name]) for name, entry in catalogue().items() if not entry.interpreted)
    assert probe_cost.copy_package(tmp_path / "without", strip=True) == in_engine
    assert probe_cost.copy_package(tmp_path / "with", strip=False) == 0
    assert list(sites(tmp_path / "without" / "minillm")) == []
    assert len(list(sites(tmp_path / "with" / "minillm"))) == in_engine


def test_prompts_are_the_same_each_time_and_ordinary_tokens() -> None:
    workload = Workload("x", "y", "float32", requests=3, prompt_len=50, output_len=2)
    prompts = workload.prompts(101)
    assert prompts == workload.prompts(101) != workload.prompts(101, seed=1)
    assert [len(prompt) for prompt in prompts] == [50] * 3
    assert all(16 <= token < 101 for prompt in prompts for token in prompt)


def test_choose() -> None:
    assert choose(CPU, []) == list(CPU)
    assert [workload.name for workload in choose(CPU, ["nano-16"])] == ["nano-16"]
    with pytest.raises(ValueError, match=r"'qwen3-0\.6b-1' here; there are nano-1, nano-16"):
        choose(CPU_QUICK, ["qwen3-0.6b-1"])


def test_weights_that_a_step_reads(tmp_path: Path) -> None:
    tied = make_llama(tmp_path / "tied", tie_word_embeddings=True)
    untied = make_llama(tmp_path / "untied", tie_word_embeddings=False)
    assert bytes_per_step(tmp_path / "tied", "float32") == tied.num_parameters() * 4
    table = untied.get_input_embeddings().weight.numel()
    assert bytes_per_step(tmp_path / "untied", "bfloat16") == (untied.num_parameters() - table) * 2


def test_a_shape_as_a_llama_has_its_sizes() -> None:
    for shape in SHAPES.values():
        sizes = as_llama(shape)
        assert {name: value for name, value in shape.items() if name in sizes and name not in OWN} == {
            name: value for name, value in sizes.items() if name not in OWN
        }
    assert as_llama(SHAPES["qwen3-0.6b"])["head_dim"] == 128 and as_llama(SHAPES["qwen3-0.6b"])["tie_word_embeddings"]
    assert {workload.model for workload in CPU} == {"nano-llama", "qwen3-0.6b"}


def test_random_checkpoints_are_made_once_and_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    from minillm.llm import LLM

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 300}
    monkeypatch.setitem(SHAPES, "small", {**SHAPES["qwen3-0.6b"], **small})
    workload = Workload("x", "small", "bfloat16", 1, 2, 2)
    with Checkpoints("nano-llama") as checkpoints:
        folder = checkpoints.folder(workload)
        assert checkpoints.folder(workload) == folder
        assert LLM(str(folder), dtype="bfloat16").engine.model_config.dtype == "bfloat16"
        assert checkpoints.folder(CPU[0]) == resolve_model("nano-llama")
    assert not folder.exists()


PROGRAM = """
import sys, time
from minillm.bench.checkpoints import Checkpoints
from minillm.bench.shapes import SHAPES
from minillm.bench.workloads import Workload
small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 300}
SHAPES["small"] = {**SHAPES["qwen3-0.6b"], **small}
with Checkpoints("nano-llama") as checkpoints:
    print(checkpoints.folder(Workload("x", "small", "float32", 1, 2, 2)), flush=True)
    time.sleep(120)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter there")
@pytest.mark.parametrize(
    "kind", ["SIGTERM", *(pytest.param(name, marks=pytest.mark.ci) for name in ("SIGHUP", "SIGINT"))]
)
def test_nothing_stays_behind_when_it_is_ended(kind: str) -> None:
    number = getattr(signal, kind)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], **pipes) as process:
        folder = Path(process.stdout.readline().strip())
        assert (folder / "model.safetensors").is_file()
        process.send_signal(number)
        assert process.wait(timeout=60) in (128 + number, -number)
    assert not folder.exists()


def test_the_signals_are_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Checkpoints("nano-llama"):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_agreement() -> None:
    assert agreement([[1, 2], [3, 4]], [[1, 2], [3, 5]]) == 0.75
