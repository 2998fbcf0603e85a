"""What a check finds: how bad it is, what it saw, and what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minillm.diagnose.checkpoint import Checkpoint

OK, WARN, WRONG, SKIPPED = "ok", "warn", "wrong", "skipped"


@dataclass
class Finding:
    """One row of the doctor's table. ``level``: ok, warn (works, but look), wrong, or skipped (not to be checked)."""

    level: str
    seen: str
    todo: str = ""
    name: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"check": self.name, "level": self.level, "seen": self.seen, "todo": self.todo}


Check = Callable[[Checkpoint], Finding]


def ok(seen: str) -> Finding:
    return Finding(OK, seen)


def warn(seen: str, todo: str) -> Finding:
    return Finding(WARN, seen, todo)


def wrong(seen: str, todo: str) -> Finding:
    return Finding(WRONG, seen, todo)


def some(names: list[str], most: int = 4) -> str:
    """``a, b, c, d and 3 more``."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
