"""Figures that stand in two places are the same in both: tables and the data behind pictures, pictures and runs."""

import json
import re
import sys
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from pages import runs  # noqa: E402
from pages.claims import section_of  # noqa: E402
from pages.clone import DOCS  # noqa: E402
from pages.tables import Table, Value, of_page, of_run  # noqa: E402

PERFORMANCE = (DOCS / "performance.md").read_text(encoding="utf-8")


def table_in(section: str, heading: str) -> Table:
    tables = of_page("\n".join(section_of(PERFORMANCE, section)))
    return next(table for table in tables if table.column_of(heading) is not None)


def test_the_ladders_table_is_what_its_picture_shows() -> None:
    measured = json.loads((DOCS / "data" / "ladder.json").read_text(encoding="utf-8"))["results"]
    table = table_in("The ladder", "rung")
    assert [row[0] for row in table.rows] == [rung["name"] for rung in measured]
    for row, rung in zip(table.rows, measured):
        if not rung["skipped"]:
            shown = [Value.read(cell) for cell in row[2:]]
            keys = ("tokens_per_s", "before", "first", "ttft_ms", "itl_p99_ms")
            kept = [rung[key] / (1000 if key.endswith("_ms") else 1) for key in keys]
            assert shown == pytest.approx(kept, rel=0.03, abs=0.006), rung["name"]


def test_the_prefix_caches_table_is_what_its_picture_shows() -> None:
    measured = json.loads((DOCS / "data" / "prefix.json").read_text(encoding="utf-8"))["curve"]
    table = table_in("What the prefix cache saves, and costs", "tokens in the tree")
    for row, point in zip(table.rows, measured, strict=True):
        kept = [point["tokens"], point["nodes"], point["insert_ns"] / 1e9, point["evict_ns"] / 1e9]
        kept += [point["match_ms"] / 1e3, point["match_many_nodes_ms"] / 1e3]
        assert [Value.read(cell) for cell in row] == pytest.approx(kept, rel=0.05)


def words_in(picture: str) -> list[str]:
    text = (DOCS / "img" / picture).read_text(encoding="utf-8")
    return [unescape(word).replace("−", "-") for word in re.findall(r"<text[^>]*>([^<]*)</text>", text)]


def test_the_picture_of_buffers_has_the_rows_of_the_run() -> None:
    """Chapter 09: the rows in the order in which they lie there, long contexts first."""
    part = next(part for part in runs.load("09").parts if part.title.startswith("Rows that are nobody"))
    rows = of_run(part.plain)[0].rows
    words = words_in("09_buffers.svg")
    at = words.index(rows[0][1])
    assert words[at : at + 4] == [row[1] for row in rows]
    for place, name in enumerate(("seat", "position", "slot", "length"), start=2):
        at = words.index(name)
        assert words[at + 1 : at + 5] == [row[place] for row in rows], name


def test_the_picture_of_a_step_names_where_its_calls_are() -> None:
    for file in ("scheduler/scheduler.py", "worker/runner.py"):
        assert file in words_in("step.svg") and (ROOT / "minillm" / file).is_file()


def test_the_rooms_are_said_as_they_lie() -> None:
    """The words that stand for the picture of the house, where there is no site."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    words = page.partition("<!-- made: picture img/rooms.svg -->")[2].partition("<!-- end -->")[0]
    named = ("commands", "diagnose", "watches", "engine", "worker", "model", "cache", "probe")
    assert sorted(named, key=words.index) == list(named)
