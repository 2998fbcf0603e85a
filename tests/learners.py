"""For tests of ``minillm learn``: a learner's file with some functions written, and the command as they type it."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from minillm.learn.registry import lesson_tasks, task
from minillm.learn.source import definition
from minillm.learn.stub import exercise

Done = subprocess.CompletedProcess[str]
Learn = Callable[..., Done]


def environment(my: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MINILLM_")}
    return {**kept, "MINILLM_MY": str(my), "PYTHONIOENCODING": "utf-8", "COLUMNS": "120"}


def solve(my: Path, number: str, *ids: str, **replaced: tuple[str, str]) -> Path:
    """A learner's file with the engine's own bodies for some tasks, the others stubs."""
    chosen = lesson_tasks(number)
    bodies = {one.id: definition(one) for one in chosen if one.id in ids}
    for id, (old, new) in replaced.items():
        bodies[id.replace("_", ".")] = definition(task(id.replace("_", "."))).replace(old, new)
    my.mkdir(exist_ok=True)
    path = my / f"ex{number}.py"
    path.write_text(exercise(chosen, bodies), encoding="utf-8")
    return path


def clean(done: Done, status: int = 0) -> str:
    """Its output; no traceback, and the status that was expected."""
    text = done.stdout + done.stderr
    assert done.returncode == status, text
    assert "Traceback" not in text, text
    return text
