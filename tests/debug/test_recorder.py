"""A recording holds what the probes said, as plain data, and is whole up to the last step."""

import json
from pathlib import Path

import pytest
from tiny import Oracle
from workload import make_engine

from minillm.debug.recorder import PROBES, record
from minillm.debug.recording import read_recording
from minillm.probe import Event, listen, probe
from minillm.request import SamplingParams


def drive(folder: Path, count: int = 3, **settings: int) -> None:
    engine = make_engine(folder, page_size=4, **settings)
    for i in range(count):
        engine.add_request([5 + i] * (6 + 3 * i), SamplingParams(temperature=0, max_tokens=5, ignore_eos=True))
    while engine.has_requests:
        engine.step()


def test_one_line_an_event_in_their_order(oracle: Oracle, tmp_path: Path) -> None:
    heard: list[tuple[str, int]] = []

    def hear(event: Event) -> None:
        heard.append((event.name, event.step))

    with record(tmp_path / "run.jsonl"), listen(PROBES, hear):
        drive(oracle.folder)
    assert not probe.on, "the recorder listens on"
    lines = (tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {"format": "minillm recording", "version": 1}
    entries = [json.loads(line) for line in lines[1:]]
    assert [entry["name"] for entry in entries] == [name for name, _ in heard]
    first = next(i for i, entry in enumerate(entries) if entry["name"] == "scheduler.begin")
    assert [entry["step"] for entry in entries[first:]] == [step for _, step in heard[first:]]
    assert all(entry["step"] == 0 for entry in entries[:first])
    times = [entry["time"] for entry in entries]
    assert times == sorted(times) and times[0] >= 0
    assert {"engine.config", "memory.plan", "request.add", "batch.build", "kv.free"} <= {e["name"] for e in entries}


def test_values_are_what_the_engine_had(oracle: Oracle, tmp_path: Path) -> None:
    tokens: list[tuple[int, int, int]] = []

    def hear(event: Event) -> None:
        tokens.append((event.request.id, event.token_id, len(event.request.output_ids)))

    with record(tmp_path / "run.jsonl"), listen("request.token", hear):
        drive(oracle.folder)
    entries = read_recording(tmp_path / "run.jsonl").records
    found = [e["values"] for e in entries if e["name"] == "request.token"]
    assert [(v["request"]["id"], v["token_id"], v["request"]["output_tokens"]) for v in found] == tokens
    builds = [e["values"]["batch"] for e in entries if e["name"] == "batch.build"]
    assert builds[0] == {"num_tokens": 6 + 9 + 12, "num_requests": 3}
    texts = [set(e["values"]) for e in entries if e["name"] in ("request.text", "request.finish")]
    assert texts and all(keys <= {"request", "delta"} for keys in texts)


def test_two_engines_are_told_apart(oracle: Oracle, tmp_path: Path) -> None:
    with record(tmp_path / "run.jsonl"):
        drive(oracle.folder, 1)
        drive(oracle.folder, 2)
    entries = read_recording(tmp_path / "run.jsonl").records
    finished = [(e["engine"], e["values"]["request"]["id"]) for e in entries if e["name"] == "request.finish"]
    assert finished == [(1, 0), (2, 0), (2, 1)]
    assert [e["engine"] for e in entries] == sorted(e["engine"] for e in entries)
    assert next(e["step"] for e in entries if e["engine"] == 2) == 0, "a new engine begins at the beginning"


def test_what_is_written_so_far_can_be_read(oracle: Oracle, tmp_path: Path) -> None:
    """After every step the file ends with it, for whoever comes after a crash."""
    path = tmp_path / "run.jsonl"
    with record(path):
        engine = make_engine(oracle.folder)
        engine.add_request([5, 6, 7], SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
        while engine.has_requests:
            engine.step()
            last = read_recording(path).records[-1]
            assert (last["name"], last["step"]) == ("engine.step", engine.scheduler.num_steps)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot write"), record(tmp_path / "no" / "run.jsonl"):
        pass
    assert not probe.on
