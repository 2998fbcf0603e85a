"""Probes: one mechanism for traces, breakpoints and docs.

``probe.on and probe("kv.allocate", request=request, pages=pages)`` stands in the engine at each place worth seeing,
just before the statement worth watching. Nobody listens by default, and then it costs one attribute check: the values
are not even looked up. A listener gets an `Event`; lessons draw events with rich, `minillm.debug.stops` turns them into
breakpoints and log points.
"""

import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import FrameType
from typing import Any


@dataclass(slots=True)
class Event:
    """What a probe saw: its name, the values it was given, the engine's step, and when (``time.perf_counter`` seconds).

    ``values`` holds live objects, not copies: a listener that keeps them for later copies what it needs.
    """

    name: str
    values: dict[str, Any]
    step: int
    time: float
    frame: FrameType = field(repr=False)

    def __getattr__(self, key: str) -> Any:
        """``event.request`` is short for ``event.values["request"]``."""
        try:
            return self.values[key]
        except KeyError:
            raise AttributeError(f"probe {self.name!r} has no value {key!r}; it has {sorted(self.values)}") from None


@dataclass(eq=False, slots=True)
class Listener:
    """One listener: the patterns it wants (``"kv.*"``) and what to call. Also a context manager that closes itself."""

    patterns: tuple[str, ...]
    callback: Callable[[Event], None]

    def wants(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def close(self) -> None:
        if self in _listeners:
            _listeners.remove(self)
        _refresh()

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


_listeners: list[Listener] = []
# Told of what a new listener wants, and of what all want once an engine replays: see `minillm.debug.blind`.
on_listen: Callable[[tuple[str, ...]], None] | None = None
replaying: "weakref.WeakSet[Any]" = weakref.WeakSet()  # the recorded steps of engines that are alive
_routes: dict[str, tuple[Listener, ...]] = {}  # probe name -> who wants it, filled as names come by
_current = threading.local()  # step: a thread that stands in for a device may be at another one


class Probe:
    """The one `probe`: ``probe.on`` says whether anyone listens at all, calling it tells the listeners of that name."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = False

    def __call__(self, name: str, **values: Any) -> bool:
        if route := _route(name):
            event = Event(name, values, getattr(_current, "step", 0), time.perf_counter(), sys._getframe(1))
            for listener in route:
                listener.callback(event)
        return True  # so that it can stand after ``probe.on and``


probe = Probe()


def listening(name: str) -> bool:
    """Whether anyone wants this probe: ask before computing a value that only the probe needs."""
    return probe.on and bool(_route(name))


def listen(patterns: str | tuple[str, ...] | list[str], callback: Callable[[Event], None]) -> Listener:
    """Call ``callback(event)`` at every probe whose name matches one of the patterns (shell style:
    ``"scheduler.*"``)."""
    listener = Listener((patterns,) if isinstance(patterns, str) else tuple(patterns), callback)
    _listeners.append(listener)
    _refresh()
    if on_listen is not None:
        on_listen(listener.patterns)
    return listener


def replays(recordings: Any) -> None:
    """An engine says that from here on, as long as ``recordings`` live, its decode steps run past all probes."""
    replaying.add(recordings)
    for listener in _listeners if on_listen is not None else ():
        on_listen(listener.patterns)  # type: ignore[misc]


def attached() -> bool:
    """Whether a debugger (VS Code, or anything that speaks its protocol) listens at the other end of debugpy. Nothing
    is loaded to find out."""
    debugpy: Any = sys.modules.get("debugpy")
    return debugpy is not None and debugpy.is_client_connected()


def listeners() -> list[Listener]:
    """Who listens."""
    return _listeners.copy()


@contextmanager
def unheard() -> Iterator[None]:
    """Inside, nobody hears anything: what is only tried, or recorded, is no step of the engine's."""
    before, probe.on = probe.on, False
    try:
        yield
    finally:
        probe.on = before


def silence() -> None:
    """From here on nobody listens to anything."""
    _listeners.clear()
    _refresh()


def set_step(step: int) -> None:
    """The engine says which step has begun; events of this thread carry the number."""
    _current.step = step


def _refresh() -> None:
    _routes.clear()
    probe.on = bool(_listeners)


def _route(name: str) -> tuple[Listener, ...]:
    route = _routes.get(name)
    if route is None:
        route = _routes[name] = tuple(listener for listener in _listeners if listener.wants(name))
    return route
