"""The editor's files: they can be read, every configuration says where it stops, and every input is asked for."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from minillm.debug.catalogue import PACKAGE
from minillm.debug.launch import LAUNCH, Configuration, configurations, read_jsonc, stopping_at

ALL = configurations()
LESSONS = sorted((PACKAGE.parent / "lessons").glob("[0-9][0-9]_*.py"))
each = pytest.mark.parametrize("one", ALL, ids=lambda one: one.title)


def test_every_lesson_has_its_configuration() -> None:
    for path in LESSONS:
        (found,) = (one for one in ALL if one.name.startswith(f"Lesson {path.name[:2]}: "))
        assert Path(found.settings["program"]) == path
        assert found.probes == tuple(breaks(path).split(","))  # what its own header says to stop at


def breaks(script: Path) -> str:
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "breaks":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{script.name} names no probes")


@each
def test_a_configuration_says_where_it_stops_and_asks(one: Configuration) -> None:
    if 0 < len(one.probes) <= 3:
        assert one.note == ", ".join(one.probes)
    elif one.probes:
        assert one.note == f"from {one.probes[0]} to {one.probes[-1]}"
    else:
        assert one.note
    assert one.settings["type"] == "debugpy" and one.settings["presentation"]["group"]
    raw = next(entry for entry in content()["configurations"] if entry["name"] == one.name)
    if one.settings["request"] == "launch":
        assert "${input:condition}" in json.dumps(raw) and "${input:probes" in json.dumps(raw)
        assert one.settings["console"] == "integratedTerminal"


def test_every_input_is_used_and_every_one_used_is_there() -> None:
    text, ids = json.dumps(content()["configurations"]), [one["id"] for one in content()["inputs"]]
    used = {part.partition("}")[0] for part in text.split("${input:")[1:]}
    assert used == set(ids) and len(ids) == len(set(ids))
    assert all(one["type"] == "promptString" and one["description"] for one in content()["inputs"])


def test_stopping_at() -> None:
    assert "Lesson 03: paged attention" in [one.title for one in stopping_at("kv.free")]
    assert not stopping_at("weights.tensor")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('// x\n{"a": [1, 2,], // y "z"\n}', {"a": [1, 2]}),
        ('{"a//b": "http://x", /* c\n */ "d": "\\"//,}"}', {"a//b": "http://x", "d": '"//,}'}),
    ],
)
def test_json_with_comments(text: str, value: Any) -> None:
    assert read_jsonc(text) == value


@each
def test_its_keys_are_those_that_the_debugger_knows(one: Configuration) -> None:
    known = {
        "name",
        "type",
        "request",
        "program",
        "module",
        "args",
        "env",
        "cwd",
        "console",
        "justMyCode",
        "subProcess",
    }
    assert set(one.settings) <= known | {"connect", "presentation"}


@pytest.mark.parametrize("name", ["launch.json", "tasks.json", "extensions.json", "settings.json"])
def test_the_editor_can_read_its_files(name: str) -> None:
    assert read_jsonc((LAUNCH.parent / name).read_text(encoding="utf-8"))


def content() -> dict[str, Any]:
    return read_jsonc(LAUNCH.read_text(encoding="utf-8"))


def test_tasks_start_what_is_there() -> None:
    tasks = read_jsonc((LAUNCH.parent / "tasks.json").read_text(encoding="utf-8"))
    ids = {one["id"] for one in tasks["inputs"]}
    for task in tasks["tasks"]:
        script = task["args"][0]
        assert script in ("-m", "${file}") or (PACKAGE.parent / script).is_file(), task["label"]
        used = {part.partition("}")[0] for text in task["args"] for part in text.split("${input:")[1:]}
        assert used <= ids, task["label"]
