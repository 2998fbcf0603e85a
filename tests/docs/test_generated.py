"""What quotes the code is as the code is now, and what compares a lesson's trace tells a change from noise."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from pages import nav, probes, traces  # noqa: E402
from pages.piece import Piece, code, lesson_files  # noqa: E402

LESSONS = list(lesson_files())


def make_docs(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "scripts" / "make_docs.py"), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_nothing_is_stale() -> None:
    """Of what needs no run of a lesson; .ci/run checks the traces as well, with `make_docs.py --check`."""
    done = make_docs("--check", "--no-runs")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_unknown_lesson_is_refused() -> None:
    done = make_docs("--check", "--lesson", "99")
    assert done.returncode == 1 and "There is no lesson 99" in done.stderr


@pytest.mark.parametrize("number", LESSONS)
def test_every_lesson_has_a_trace(number: str) -> None:
    kept = traces.from_text((ROOT / traces.text_path(number)).read_text(encoding="utf-8"))
    assert len(kept) >= 4 and traces.stale(number, kept) == [], "python scripts/make_docs.py writes it"


def test_a_trace_survives_its_file() -> None:
    parts = [{"title": "One", "text": "a\n\n  b == c", "svg": ""}, {"title": "Two", "text": "=", "svg": ""}]
    assert traces.agree(traces.from_text(traces.as_text(parts)), parts)


def test_it_says_where_a_trace_has_changed() -> None:
    kept, new = ([{"title": "One", "text": f"page 1\n{free} free", "svg": ""}] for free in (3, 4))
    assert traces.first_difference(kept, new) == "part 'One' said '3 free', now '4 free'"


@pytest.mark.parametrize(
    "kept, new, agree",
    [
        ("  mean  0.123 ▁▅", " mean 0.124  ▂▄", True),  # a last digit, a bar by a step, spaces
        ("free list (32 pages)", "free list (31 pages)", False),  # whole numbers are exact
        ("0.50", "0.61", False),
        ("page 2 -> page 3", "page 3 -> page 2", False),
        ("A takes page 16", "A gets page 16", False),
        ("1,439 tokens", "1,439 tokens more", False),
    ],
)
def test_noise_is_no_change(kept: str, new: str, agree: bool) -> None:
    assert traces.same(kept, new) is agree


def test_a_piece_knows_when_it_is_stale(tmp_path: Path) -> None:
    piece = Piece(str(tmp_path / "part.md"), "new\n")
    assert piece.is_stale
    piece.write()
    assert not piece.is_stale
    (tmp_path / "part.md").write_text("old\n", encoding="utf-8")
    assert piece.is_stale


def test_markdown_leaves_code_alone() -> None:
    assert code("a.__len__() | b[0]") == "<code>a.&#95;&#95;len&#95;&#95;() &#124; b&#91;0&#93;</code>"
    assert code("a < b") == "<code>a &lt; b</code>"


def test_every_lessons_probes_are_in_its_table() -> None:
    for path in lesson_files().values():
        text = probes.of_lesson(path)
        for name in probes.breaks(path).split(","):
            assert f'!!! probe "{name}"' in text, (path.name, name)


def test_a_trace_asks_for_nothing_from_elsewhere() -> None:
    for path in (ROOT / "docs" / "img").rglob("*.svg"):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        assert "http:" not in text and "https:" not in text and "@import" not in text, path.name


def test_the_navigation_names_only_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "lessons").mkdir()
    for name in ("index.md", "lessons/03_c.md", "lessons/03_c.zh.md", "lessons/01_a.md", "lessons/08_h.md"):
        (tmp_path / name).write_text("# Page", encoding="utf-8")
    given = [{"Start": ["index.md", {"Plan": "study.md"}]}, {"One": "lessons 1-7"}, {"Four": "lessons 20-24"}]
    assert nav.fill(given, tmp_path) == [{"Start": ["index.md"]}, {"One": ["lessons/01_a.md", "lessons/03_c.md"]}]


def test_fields_become_a_list() -> None:
    pytest.importorskip("griffe", reason="comes with the site's tools: python3 scripts/start.py setup docs")
    from pages.docstrings import with_lists

    given = "A page.\n\nsize: tokens it holds,\n    sixteen as a rule.\nfirst, last: its slots.\n\nThe end: it is free."
    made = "- `size`: tokens it holds,\n    sixteen as a rule.\n- `first`, `last`: its slots."
    assert with_lists(given) == f"A page.\n\n{made}\n\nThe end: it is free."


def test_everything_says_where_it_comes_from() -> None:
    for path in (ROOT / "docs" / "generated").glob("*.md"):
        assert "make_docs.py" in path.read_text(encoding="utf-8") or "_trace" in path.name, path.name
