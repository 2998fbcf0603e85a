"""What a recording says of each step: who waited, ran and had finished, the plan, and who held which page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from minillm.debug.recorder import Record
from minillm.debug.recording import engines_of, folders_of, plan_of, request_of
from minillm.kvcache.pages import PagePool, slot_of
from minillm.request import Request
from minillm.scheduler.plan import StepPlan


@dataclass
class Frame:
    """One step of one engine, as it stood when the plan was made and the model had not run yet.

    finished: all that had by the end of this step. tokens: request -> its new tokens, mostly one. whole: whether the
    step came to its end. settings: what sets the engine apart from the recording's others. folder: its model's. What is
    kept is what the file said; the engine's objects are made when somebody asks.
    """

    engine: int
    step: int
    time: float
    token_budget: int
    _plan: Record
    _pool: Record
    _running: list[Record]
    _waiting: list[Record]
    _finished: list[Record]
    _cached: list[int]
    tokens: dict[int, list[int]] = field(default_factory=dict)
    whole: bool = False
    settings: str = ""
    folder: str = ""

    @property
    def name(self) -> str:
        """``engine 2 (batching=continuous)``."""
        return f"engine {self.engine}" + (f" ({self.settings})" if self.settings else "")

    @property
    def plan(self) -> StepPlan:
        return plan_of(self._plan)

    @property
    def running(self) -> list[Request]:
        return [request_of(data) for data in self._running]

    @property
    def waiting(self) -> list[Request]:
        """Without pages; what was last said of one that had to leave is from just before it did."""
        return [request_of({**data, **_NO_PAGES}) for data in self._waiting]

    @property
    def finished(self) -> list[Request]:
        return [request_of({**data, **_NO_PAGES, "state": "finished"}) for data in self._finished]

    @property
    def pool(self) -> PagePool:
        """A pool in which the running requests hold their pages, and the prefix cache those that it keeps."""
        pool = PagePool(self._pool["num_pages"], self._pool["page_size"])
        for pages in (*(data["pages"] for data in self._running), self._cached):
            for page in pages:
                pool.references[page] += 1
        pool.free_pages = [page for page in reversed(range(pool.num_pages)) if not pool.references[page]]
        return pool

    @property
    def written(self) -> list[int]:
        """The slots of the cache that this step fills."""
        tables, S = {data["id"]: data["pages"] for data in self._running}, self._pool["page_size"]
        return [
            slot_of(tables[row.request_id], position, S)
            for row in self.plan.rows
            if row.request_id in tables
            for position in range(row.start, row.start + row.count)
        ]


def frames(records: Sequence[Record]) -> list[Frame]:
    """Every step, in the order in which they ran."""
    made: list[Frame] = []
    engines: dict[int, _Engine] = {}
    settings, folders = engines_of(records), folders_of(records)
    for entry in records:
        engine = engines.setdefault(entry["engine"], _Engine(entry["engine"]))
        try:
            frame = engine.take(entry)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError(f"the recording is damaged: its event {entry['name']} lacks something") from None
        if frame:
            frame.settings, frame.folder = settings[frame.engine], folders.get(frame.engine, "")
            made.append(frame)
    return made


class _Engine:
    """What is known of one engine so far."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.known: dict[int, dict[str, Any]] = {}  # request -> what was last said of it
        self.finished: dict[int, dict[str, Any]] = {}
        self.frame: Frame | None = None  # the step under way, or done and not yet followed by another

    def take(self, entry: Record) -> Frame | None:
        """The frame that this event begins, if it does."""
        name, values = entry["name"], entry["values"]
        if request := values.get("request"):
            self.known[request["id"]] = request
        if name == "scheduler.plan":
            self.frame = self._begin(entry)
            return self.frame
        if name == "request.finish":
            self.finished[request["id"]] = request
        elif name == "engine.step" and self.frame:
            for id, token in values["result"]["tokens"]:
                self.frame.tokens.setdefault(id, []).append(token)
            self.frame._finished = [*self.finished.values()]
            self.frame.whole = True
        return None

    def _begin(self, entry: Record) -> Frame:
        values = entry["values"]
        self.known.update((one["id"], one) for one in values["running"])
        waiting = [self.known[id] for id in values["waiting"] if id in self.known]
        return Frame(
            self.number, values["plan"]["step"], entry["time"], values["scheduler"]["token_budget"], values["plan"],
            values["scheduler"]["pool"], values["running"], waiting, [*self.finished.values()],
            values.get("cached", []),
        )  # fmt: skip


_NO_PAGES = {"state": "waiting", "num_computed": 0, "pages": [], "seat": -1}
