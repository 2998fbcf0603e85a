"""`minillm probes`, and how `--help` behaves."""

from collections.abc import Callable
from typing import Any

import pytest

from minillm.cli.options import parse_settings
from minillm.cli.probes import run
from minillm.debug.catalogue import catalogue, locations


def test_every_probe_with_its_place(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    run("*")
    shown = capsys.readouterr().out
    for name, places in locations().items():
        assert f" {name} " in shown
        for place in places:
            assert f"{place.file.removeprefix('minillm/')}:{place.line} " in shown


def test_a_pattern_chooses(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    run("kv.*")
    shown = capsys.readouterr().out
    assert all((f" {name} " in shown) == name.startswith("kv.") for name in catalogue())


def test_no_such_probe() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'kv\.allocate'"):
        run("kv.alocate")
    with pytest.raises(ValueError, match="such as"):
        run("9")


def test_help_names_every_command_and_is_light(minillm: Callable[..., Any]) -> None:
    done = minillm("--help", PYTHONPROFILEIMPORTTIME="1")
    for name in ("generate", "chat", "memory", "probes", "lesson", "bench"):
        assert f"  {name} " in done.stdout
    assert "| torch" not in done.stderr and "numpy" not in done.stderr


def test_settings_from_text() -> None:
    pairs = ["page_size=4", "reuse-kv=False", "num_pages=none", "gpu_memory_utilization=0.5", "batching = static"]
    assert parse_settings([*pairs, "model_path=a=b"]) == {
        "page_size": 4, "reuse_kv": False, "num_pages": None, "gpu_memory_utilization": 0.5, "batching": "static",
        "model_path": "a=b",
    }  # fmt: skip
