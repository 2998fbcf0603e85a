"""Recording: what the scheduler and the engine did, one JSON line an event, to look at after the run.

The first line is a header. Each further line has the probe's ``name``, the ``engine`` (1 is the first one that the
program made), its ``step``, the ``time`` in seconds since the recording began, and the ``values`` as plain data.
"""

import dataclasses
import enum
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from types import TracebackType
from typing import IO, Any

from minillm.probe import Event, Listener, listen

FORMAT, VERSION = "minillm recording", 1
PROBES = (
    "engine.config", "memory.plan", "kv.pool", "request.*", "scheduler.*", "kv.allocate", "kv.free", "batch.build",
    "engine.step", "overlap.launch", "overlap.read", "stream.*",
)  # fmt: skip
_LEFT_OUT = {
    "engine.config": {"setup"},  # the config and its reasons say it
    "memory.plan": {"setup"},
    "kv.pool": {"manager"},
    "request.text": {"text"},  # the delta says what is new
    "request.finish": {"text"},
    "batch.build": {"plan", "rows"},  # scheduler.plan has them
    "engine.step": {"plan", "engine"},
    "overlap.launch": {"plan"},
    "overlap.read": {"launched", "flying"},
    "stream.begin": {"plan"},
    "stream.end": {"plan", "launched"},
}

Record = dict[str, Any]


class Recorder:
    """Inside ``with Recorder(take):`` each event goes to ``take`` as a dictionary that JSON can hold."""

    def __init__(self, take: Callable[[Record], None]) -> None:
        self._take = take
        self._pools: list[Any] = []  # one an engine: kept, so that no other object gets the identity of one of them
        self._engine, self._steps = 1, {1: 0}
        self._lock = threading.Lock()  # with overlap scheduling on a CPU, two threads have something to tell
        self._start = 0.0
        self._listener: Listener | None = None

    def __enter__(self) -> "Recorder":
        self._start = time.perf_counter()
        self._listener = listen(PROBES, self._hear)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._listener:
            self._listener.close()

    def _hear(self, event: Event) -> None:
        with self._lock:
            self._place(event)
            self._take(
                {
                    "name": event.name,
                    "engine": self._engine,
                    "step": self._steps[self._engine],
                    "time": round(event.time - self._start, 7),
                    "values": _values(event),
                }
            )

    def _place(self, event: Event) -> None:
        """Which engine this is, and its step. A probe that names neither belongs to the engine heard of last."""
        if event.name in ("engine.config", "memory.plan"):  # of an engine that has no pool yet
            self._engine = len(self._pools) + 1
        scheduler = event.values.get("scheduler")
        pool = event.values.get("pool", scheduler and scheduler.pool)
        if pool is not None:
            known = [i for i, one in enumerate(self._pools, 1) if one is pool]
            if not known:
                self._pools.append(pool)
            self._engine = known[0] if known else len(self._pools)
        step = self._steps.setdefault(self._engine, 0)
        self._steps[self._engine] = scheduler.num_steps if scheduler else step


def _values(event: Event) -> dict[str, Any]:
    left_out = _LEFT_OUT.get(event.name, set())
    values = {name: plain(value) for name, value in event.values.items() if name not in left_out}
    if event.name.startswith("stream.") or event.name == "overlap.read":  # which step: not always the newest one
        values["step"] = (event.plan if "plan" in event.values else event.launched.plan).step
    if event.name == "scheduler.plan":  # the whole state, once a step; who waits has no pages
        scheduler = event.values["scheduler"]
        values["running"] = [plain(request) for request in scheduler.running]
        values["waiting"] = [request.id for request in scheduler.waiting]
        values["cached"] = scheduler.cache.kept_pages()
    return values


def plain(value: Any) -> Any:
    """Any value of these probes as JSON holds it. The engine's own objects give what is worth keeping of them."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if view := _VIEWS.get(type(value).__name__):
        return view(value)
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value) if isinstance(value, PurePath) else type(value).__name__


def _request(x: Any) -> Record:
    return {
        "id": x.id,
        "state": x.state.value,
        "prompt_tokens": len(x.prompt_ids),
        "output_tokens": len(x.output_ids),
        "num_computed": x.num_computed,
        "pages": list(x.pages),
        "seat": x.seat,
        "finish_reason": x.finish_reason,
        "num_preemptions": x.num_preemptions,
    }


def _plan_row(x: Any) -> Record:
    kept = ("request_id", "seat", "start", "count", "num_pages", "samples")
    row = {name: getattr(x, name) for name in kept}
    return {**row, "new_pages": list(x.new_pages), "joins": x.joins is not None}


def _pool(x: Any) -> Record:
    return {"num_pages": x.num_pages, "page_size": x.page_size, "free": x.num_free, "used": x.num_used}


_VIEWS: dict[str, Callable[[Any], Any]] = {
    "Request": _request,
    "PlanRow": _plan_row,
    "PagePool": _pool,
    "Scheduler": lambda x: {
        "num_waiting": len(x.waiting),
        "num_running": len(x.running),
        "token_budget": x.config.max_num_batched_tokens,
        "pool": _pool(x.pool),
    },
    "StepResult": lambda x: {"tokens": [[id, int(token)] for id, tokens in x.tokens.items() for token in tokens]},
    "RequestOutput": lambda x: {"request_id": x.request_id, "finished": x.finished},
    "ForwardBatch": lambda x: {"num_tokens": x.num_tokens, "num_requests": x.num_requests},
}


@contextmanager
def record(path: Path) -> Iterator[None]:
    """Write what happens inside to a file, which is whole up to the last step even if the program is killed."""
    with open_to_write(path) as file:

        def take(entry: Record) -> None:
            file.write(json.dumps(entry, separators=(",", ":")) + "\n")
            if entry["name"] == "engine.step":
                file.flush()

        file.write(json.dumps({"format": FORMAT, "version": VERSION}) + "\n")
        with Recorder(take):
            yield


def open_to_write(path: Path) -> IO[str]:
    """The file, made anew; ValueError says why it cannot be."""
    try:
        return path.open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None
