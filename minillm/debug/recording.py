"""Reading a recording back: its events as they were written, and the engine's own objects made from them again."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minillm.debug.recorder import FORMAT, VERSION, Record
from minillm.request import Place, Request, RequestState, SamplingParams
from minillm.scheduler.plan import Joining, PlanRow, StepPlan


@dataclass
class Recording:
    """The events of a run. ``cut``: in words, where the file ends before its time; empty if it does not."""

    records: list[Record]
    cut: str = ""


def read_recording(path: Path) -> Recording:
    """All that can be read of it. ValueError if it is no recording, or one that another version wrote."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    _check_header(path, lines[0])
    found = Recording([])
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        entry = _parse(line)
        if not _is_record(entry):
            found.cut = f"{path} is cut or damaged at line {number}; what stands before it is shown"
            break
        found.records.append(entry)
    return found


def _check_header(path: Path, line: bytes) -> None:
    header = _parse(line)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is no recording of minillm; make one with --record FILE")
    if header.get("version") != VERSION:
        raise ValueError(
            f"{path} is a recording of version {header.get('version')!r}, and this minillm reads version {VERSION}; "
            "make it again with --record"
        )


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        return None


def _is_record(entry: Any) -> bool:
    kinds: dict[str, Any] = {"name": str, "engine": int, "step": int, "time": (int, float), "values": dict}
    return isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())


def engines_of(records: Iterable[Record]) -> dict[int, str]:
    """Engine -> what sets it apart, ``batching=static``: its settings that the first engine does not have.

    Of the first, those that the second does not have; of a single one nothing.
    """
    configs: dict[int, Record] = {}
    for entry in records:
        config = entry["values"].get("config") if entry["name"] == "engine.config" else None
        configs.setdefault(entry["engine"], {})
        if isinstance(config, dict):
            configs[entry["engine"]] = config
    first, *others = list(configs) or [0]
    against = dict.fromkeys(others, first) | ({first: others[0]} if others else {})
    return {
        engine: _settings(config, configs.get(against.get(engine, engine), {})) for engine, config in configs.items()
    }


def folders_of(records: Iterable[Record]) -> dict[int, str]:
    """Engine -> the folder of its model, on the machine where it ran."""
    named = ((entry["engine"], entry["values"].get("folder")) for entry in records if entry["name"] == "engine.config")
    return {engine: folder for engine, folder in named if isinstance(folder, str)}


def _settings(config: Record, other: Record) -> str:
    return ", ".join(f"{key}={value}" for key, value in config.items() if value is not None and value != other.get(key))


def request_of(data: Record) -> Request:
    """A request as it was, with zeros for its tokens: only their number was kept."""
    return Request(
        id=data["id"],
        prompt_ids=[0] * data["prompt_tokens"],
        params=_UNKNOWN,
        max_tokens=0,
        seed=0,
        output_ids=[0] * data["output_tokens"],
        place=Place(data["seat"], list(data["pages"]), data["num_computed"]),
        state=RequestState(data["state"]),
        finish_reason=data["finish_reason"],
        num_preemptions=data["num_preemptions"],
    )


def plan_of(data: Record) -> StepPlan:
    """A step's plan as it was, without the tokens themselves."""
    rows = [
        PlanRow(
            row["request_id"], row["seat"], row["start"], row["count"], [], row["new_pages"], row["num_pages"],
            row["samples"], Joining(_UNKNOWN, 0) if row["joins"] else None,
        )
        for row in data["rows"]
    ]  # fmt: skip
    return StepPlan(data["step"], rows, data["preempted"])


_UNKNOWN = SamplingParams()
