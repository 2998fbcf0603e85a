"""`--record`, `--timeline` and `minillm replay`, as a user runs them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., Any]


@pytest.fixture
def recording(minillm: Run, checkpoint: str, tmp_path: Path) -> Path:
    files = ["--record", str(tmp_path / "run.jsonl"), "--timeline", str(tmp_path / "run.json")]
    done = minillm("generate", "hello", "you", "--model", checkpoint, "--max-tokens", "6", "--no-chat", *files)
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()[-2:]
    assert f"the run is in {files[1]}; look at it: python -m minillm replay {files[1]}" in told[0]
    assert f"the time line is in {files[3]}" in told[1]
    return tmp_path / "run.jsonl"


def test_generate_records_and_replay_prints(minillm: Run, recording: Path) -> None:
    trace = json.loads(recording.with_suffix(".json").read_text(encoding="utf-8"))["traceEvents"]
    assert {e["name"] for e in trace} >= {"step 1", "step 6", "waiting", "prefill", "decode", "kv.allocate", "kv.free"}
    done = minillm("replay", str(recording))
    assert (done.returncode, done.stderr) == (0, "")
    assert "step 6 of 6," in done.stdout and "finished  A length  B length" in done.stdout
    assert "\x1b" not in done.stdout, "a pipe gets no control codes"
    done = minillm("replay", str(recording), "--step", "1", "--plain", COLUMNS="40")
    assert "step 1 of 6," in done.stdout and done.stdout.isascii()
    assert all(len(line) <= 40 for line in done.stdout.splitlines())


def test_a_step_says_the_text_of_its_tokens_where_the_model_can_be_read(minillm: Run, recording: Path) -> None:
    lines = recording.read_text(encoding="utf-8").splitlines()
    said = minillm("replay", str(recording), "--step", "3", "--plain", COLUMNS="400").stdout
    sampled = next(line for line in said.splitlines() if line.startswith("sampled"))
    assert re.search(r"A ('.*'|\".*\") \d+  B ('.*'|\".*\") \d+", sampled), sampled

    folder = next(json.loads(line)["values"]["folder"] for line in lines if '"name":"engine.config"' in line)
    elsewhere = [line.replace(json.dumps(folder), json.dumps("/no/such/model")) for line in lines]
    recording.write_text("\n".join(elsewhere), encoding="utf-8")
    done = minillm("replay", str(recording), "--step", "3", "--plain", COLUMNS="400")
    assert done.returncode == 0, done.stderr
    sampled = next(line for line in done.stdout.splitlines() if line.startswith("sampled"))
    assert re.search(r"A \d+  B \d+  \(ids alone: .*/no/such/model is not here\)", sampled), sampled


def test_bad_files_are_one_message(minillm: Run, recording: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ([str(tmp_path / "none")], "cannot read"),
        ([str(recording.with_suffix(".json"))], "is no recording of minillm"),
        ([str(recording), "--step", "77"], "no step 77 was recorded; there are steps 1 to 6"),
    ):
        done = minillm("replay", *arguments)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
    done = minillm("generate", "x", "--record", str(tmp_path / "no" / "run.jsonl"))
    assert done.returncode == 2 and "error: cannot write" in done.stderr


def test_a_cut_recording(minillm: Run, recording: Path) -> None:
    recording.write_bytes(recording.read_bytes()[:-9])
    done = minillm("replay", str(recording))
    assert done.returncode == 0 and done.stdout.count("is cut or damaged") == 1
    assert "step 6 of 6," in done.stdout and "only planned" in done.stdout


def test_a_lesson_records(tmp_path: Path, minillm: Run) -> None:
    files = ["--record", str(tmp_path / "run.jsonl"), "--timeline", str(tmp_path / "run.json")]
    done = minillm("lesson", "04", "--plain", *files)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["traceEvents"]
    assert "engine 1" in minillm("replay", str(tmp_path / "run.jsonl"), "--step", "2").stdout


def test_the_screen_is_loaded_only_when_needed() -> None:
    code = "import sys, minillm.__main__, minillm.cli.replay; print('textual' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo terminal")
def test_in_a_terminal_it_is_a_screen(recording: Path) -> None:
    """Through a pseudo terminal, as over SSH: it draws, follows a key, and ends with q and a status of 0."""
    import pty
    import select
    import time

    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
        os.execve(sys.executable, [sys.executable, "-m", "minillm", "replay", str(recording)], environment)
    seen, end, sent = b"", time.monotonic() + 60, b""
    try:
        while time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    seen += os.read(terminal, 65536)
                except OSError:
                    break  # it has ended
            if not sent and b"of 6," in seen and b"play/pause" in seen:
                sent = b"nq"
                os.write(terminal, sent)
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert sent and os.waitstatus_to_exitcode(status) == 0, seen[-2000:]
