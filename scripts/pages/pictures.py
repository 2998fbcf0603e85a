"""Pictures that are drawn from data: those of a lesson's own, those of the benchmarks, and the house (rooms.py).

A lesson that has such pictures has a ``pictures.py`` in its folder: ``measure()`` gives what they are drawn from, plain
data that is recorded with the lesson's run, and ``draw(data)`` gives the pictures by their file names. What benchmarks
measured is kept as they wrote it, in docs/data: ``python -m minillm bench ladder --json docs/data/ladder.json``.
"""

import importlib
import json
from types import ModuleType
from typing import Any

from pages import rooms, runs
from pages.clone import DOCS

from minillm.bench.climb import Climbed
from minillm.bench.ladder_report import ladder_svg
from minillm.bench.prefix_curve import CurvePoint
from minillm.bench.prefix_report import curve_svg


def measure(number: str) -> dict[str, Any]:
    """What this lesson's own pictures are drawn from; nothing if it has none."""
    module = _module(number)
    return module.measure() if module else {}


def of_lesson(number: str) -> dict[str, str]:
    """Its own pictures by their paths in docs/."""
    module = _module(number)
    drawn = module.draw(runs.load(number).pictures) if module else {}
    return {f"img/{name}": svg for name, svg in drawn.items()}


def of_pages() -> dict[str, str]:
    """Pictures of pages that are no lesson's, by their paths in docs/."""
    ladder, prefix = (json.loads((DOCS / "data" / f"{name}.json").read_text("utf-8")) for name in ("ladder", "prefix"))
    climbed = [Climbed(**row) for row in ladder["results"]]
    points = [CurvePoint(**row) for row in prefix["curve"]]
    measured = {"ladder": ladder_svg(climbed, ladder["title"]), "prefix_curve": curve_svg(points)}
    return {f"img/{name}.svg": svg for name, svg in {**measured, "rooms": rooms.picture()}.items()}


def _module(number: str) -> ModuleType | None:
    if not (runs.FOLDER / f"lesson_{number}" / "pictures.py").exists():
        return None
    return importlib.import_module(f"minillm.learn.lessons.lesson_{number}.pictures")
