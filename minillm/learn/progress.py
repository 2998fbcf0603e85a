"""What the learner has done: ``my/progress.json``. A broken file is set aside, never a reason to stop."""

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from minillm.learn.home import my_folder, shown


class Progress:
    """The file as a dictionary. ``tasks`` has an entry for each exercise: done and peeked (when), hints (how many).

    Other parts of the file (``section``) belong to others, and are kept as they are.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or my_folder() / "progress.json"
        self._data = self._read()

    def section(self, name: str) -> dict[str, Any]:
        """A part of the file, to be changed in place; empty if it is missing or is no dictionary."""
        part = self._data.get(name)
        if not isinstance(part, dict):
            part = self._data[name] = {}
        return part

    def task(self, id: str) -> dict[str, Any]:
        tasks = self.section("tasks")
        if not isinstance(tasks.get(id), dict):
            tasks[id] = {}
        return tasks[id]

    def done(self, id: str) -> bool:
        return bool(self.task(id).get("done"))

    def peeked(self, id: str) -> bool:
        return bool(self.task(id).get("peeked"))

    def hints(self, id: str) -> int:
        """How many hints were shown."""
        count = self.task(id).get("hints")
        return count if isinstance(count, int) and count > 0 else 0

    def quiz_scores(self) -> dict[str, tuple[int, int]]:
        """Lesson ("03") -> questions answered right, and asked, in its last quiz; what is no score is left out."""
        found = {}
        for lesson, score in self.section("quiz").items():
            right, asked = (score.get(key) for key in ("right", "asked")) if isinstance(score, dict) else (None, None)
            if type(right) is int and type(asked) is int and 0 <= right <= asked and asked:
                found[lesson] = right, asked
        return found

    def mark(self, id: str, what: str) -> None:
        """Note now as the time of ``what``; the first time stays."""
        self.task(id).setdefault(what, datetime.now().astimezone().isoformat(timespec="seconds"))

    def forget(self, id: str, *what: str) -> None:
        for name in what:
            self.task(id).pop(name, None)

    def save(self) -> None:
        """Whole or not at all: a run that is stopped in the middle leaves the old file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        written.write_text(json.dumps(self._data, indent=1), encoding="utf-8")
        written.replace(self.path)

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if isinstance(data, dict):
                return data
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):  # ValueError: no JSON, or no UTF-8
            pass
        return self._set_aside()

    def _set_aside(self) -> dict[str, Any]:
        aside = self.path.with_name("progress.broken.json")
        try:
            self.path.replace(aside)
        except OSError as error:
            raise ValueError(f"{shown(self.path)} cannot be read or moved: {error}") from None
        print(f"{shown(self.path)} could not be read; it is {aside.name} now, and a new one is begun", file=sys.stderr)
        return {}
