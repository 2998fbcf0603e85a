"""`minillm probes`, and how `--help` behaves."""

from collections.abc import Callable
from typing import Any

import pytest

from minillm.cli.options import parse_settings
from minillm.cli.probes import run
from minillm.debug.catalogue import TOPICS, catalogue, locations


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_list_of_a_line_each(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    run(None, everything=False)
    lines = capsys.readouterr().out.splitlines()
    listed = [line for line in lines if line.startswith("  ")]
    assert [line.split()[0] for line in listed] == sorted(catalogue(), key=lambda name: TOPICS.index(topic(name)))
    assert len(lines) == len(catalogue()) + len(TOPICS) + 2
    assert all(len(line) <= columns for line in listed), max(listed, key=len)
    for line in listed:  # whole words, from the beginning
        name, _, what = line.strip().partition(" ")
        whole = catalogue()[name].what
        said = what.strip().removesuffix(" ...")
        assert whole.startswith(said) and not whole[len(said) : len(said) + 1].isalnum(), line


def topic(name: str) -> str:
    return catalogue()[name].topic


@pytest.mark.parametrize("columns", [40, 80, 250])
def test_all_about_all_with_their_places(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    run(None, everything=True)
    shown = capsys.readouterr().out
    for name, places in locations().items():
        assert f"{name}  {topic(name)}" in shown
        for place in places:
            assert f"{place.file.removeprefix('minillm/')}:{place.stops_at}" in "".join(shown.split())
    words = " ".join(shown.split())
    for info in catalogue().values():
        assert " ".join(info.what.split()) in words, "no word is broken"
        if columns > 40:
            for meaning in info.values.values():
                assert set(meaning.split()) <= set(shown.split())


def test_a_pattern_chooses(capsys: pytest.CaptureFixture[str]) -> None:
    run("kv.*", everything=False)
    shown = capsys.readouterr().out
    assert all((f"{name}  {topic(name)}" in shown) == name.startswith("kv.") for name in catalogue())
    assert "request.num_computed > 0" in shown and "only growth, not the first pages" in shown


def test_no_such_probe() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'kv\.allocate'"):
        run("kv.alocate", everything=False)
    with pytest.raises(ValueError, match="such as"):
        run("9", everything=False)


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
