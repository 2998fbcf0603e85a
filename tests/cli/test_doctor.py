"""`minillm doctor`: the table and its JSON; exit status 1 if something is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import TEXT_VOCAB, edit_json, make_llama

from minillm.diagnose.doctor import CHECKS

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wrong: the config asks for biases that are not there. To look at: pad is the end token."""
    folder = tmp_path_factory.mktemp("broken")
    make_llama(folder, vocab_size=TEXT_VOCAB)
    edit_json(folder / "config.json", attention_bias=True)
    edit_json(folder / "tokenizer_config.json", pad_token="</s>")
    return folder


def test_nothing_wrong(minillm: Run) -> None:
    done = minillm("doctor", "nano-llama", "--load")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n24 ok, 0 to look at, 0 wrong.\n" in done.stdout


@pytest.mark.parametrize("width", ["80", "120"])
def test_something_wrong(minillm: Run, broken: Path, width: str) -> None:
    done = minillm("doctor", str(broken), "--plain", COLUMNS=width)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.isascii() and max(map(len, done.stdout.splitlines())) <= int(width)
    lines = done.stdout.splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("tensors")]
    assert lines[at].split()[1] == "WRONG" and "12 missing" in lines[at]
    assert any("-> the config belongs to other weights" in line for line in lines[at:])
    assert [line.split()[1] for line in lines if line.startswith("padding")] == ["warn"]
    assert lines[-1] == f"{len(CHECKS) - 2} ok, 1 to look at, 1 wrong."


def test_json(minillm: Run, broken: Path) -> None:
    done = minillm("doctor", str(broken), "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["wrong"] is True and told["model"] == str(broken)
    assert [check["check"] for check in told["checks"]] == [name for name, _ in CHECKS]
    by_name = {check["check"]: check for check in told["checks"]}
    assert by_name["tensors"]["level"] == "wrong" and "q_proj.bias" not in by_name["tensors"]["todo"]
    assert by_name["padding"]["level"] == "warn" and by_name["rope"] == {
        "check": "rope", "level": "ok", "seen": "default, theta 10000", "todo": "",
    }  # fmt: skip


def test_damaged_files_are_findings(minillm: Run, broken: Path, tmp_path: Path) -> None:
    shutil.copytree(broken, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\0" * 20)
    (tmp_path / "model" / "tokenizer.json").write_text("{")
    done = minillm("doctor", str(tmp_path / "model"), "--load")
    assert (done.returncode, done.stderr) == (1, "")
    assert "could not be checked" in done.stdout.splitlines()[-1]
    assert "Traceback" not in done.stdout


def test_no_such_model(minillm: Run) -> None:
    done = minillm("doctor", "no-such-model")
    assert done.returncode == 2 and done.stderr.startswith("error: model 'no-such-model': no such folder")
