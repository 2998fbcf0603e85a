"""What the site makes from data and code: every page has its marks, every lesson its run, and nothing made is kept."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from pages import api, exercises, glossary, marks, nav, pictures, probes, runs  # noqa: E402
from pages.clone import DOCS, lesson_files  # noqa: E402
from pages.picture import draw, spans  # noqa: E402
from pages.words import code  # noqa: E402
from rich.text import Text  # noqa: E402

LESSONS = list(lesson_files())
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
CHAPTERS = [page for page in PAGES if marks.number_of(page)]


def test_no_made_page_or_picture_is_kept() -> None:
    listed = subprocess.run(["git", "ls-files", "docs"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no clone")
    made = set(api.pages()) | set(pictures.of_pages())
    for number in LESSONS:
        made |= set(runs.pictures(number)) | set(pictures.of_lesson(number))
    assert len(made) > len(LESSONS)
    assert not {f"docs/{path}" for path in made} & set(listed.stdout.split())


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole(page: str) -> None:
    """Every mark is known and closed; where it stands, the page itself says what would be there."""
    text = marks.fill(PAGES[page], page)
    assert "<!-- made:" not in text and "--8<--" not in text
    for name, picture, instead in marks.MARK.findall(PAGES[page]):
        says = instead.startswith("The built site ") and instead.count("`") >= 2
        assert says or picture, f"{page}: {name}"
        assert instead not in text, f"{page}: {name}"


def test_every_lesson_has_a_chapter_that_shows_it() -> None:
    assert [marks.number_of(page) for page in CHAPTERS] == LESSONS
    for page in CHAPTERS:
        made = [name for name, picture, _ in marks.MARK.findall(PAGES[page]) if not picture]
        assert made == list(marks.OF_LESSONS), page


@pytest.mark.parametrize(
    "text, says",
    [
        ("<!-- made: trace -->\nHere.\n", "1 marks <!-- made: NAME --> begin, 0 end"),
        ("<!-- made: film -->\nHere.\n<!-- end -->\n", "nobody makes 'film'; there are trace, probes, tasks"),
        ("<!-- made: trace -->\nHere.\n<!-- end -->\n", "'trace' is made for a lesson's chapter"),
        ("<!-- made: picture a.svg -->\nHere.\n<!-- end -->\n", "the words for a.svg do not begin with"),
    ],
)
def test_a_wrong_mark_is_told(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="^study.md: .*" + re.escape(says)):
        marks.fill(text, "study.md")


def test_a_mark_gives_way() -> None:
    filled = marks.fill("Before.\n\n<!-- made: settings -->\nOnly here.\n<!-- end -->\n\nAfter.\n", "glossary.md")
    assert filled == f"Before.\n\n{glossary.settings()}\n\nAfter.\n"


@pytest.mark.parametrize("number", LESSONS)
def test_every_lesson_is_recorded(number: str) -> None:
    """.ci/run also runs them all, and compares: `record_runs.py --check`."""
    run = runs.load(number)
    assert run.lesson == number and len(run.parts) >= 4 and run.about["date"]
    assert run.parts[-1].title == runs.LAST and all(part.lines and part.counted for part in run.parts)
    for index, part in enumerate(run.shown):
        heading = f"{index}. {part.title}" if index else f"Lesson {number}: "
        assert heading in " ".join(" ".join(part.plain).split())
    assert run.as_json() == runs.path_of(number).read_text(encoding="utf-8"), "the file is as `save` writes it"


@pytest.mark.parametrize("number", LESSONS)
def test_a_chapter_shows_each_part(number: str) -> None:
    """In order, with a text for who does not see it; the picture has the words of the run, and needs nothing else."""
    drawn, shown = runs.pictures(number), runs.load(number).shown
    text = runs.markdown(number)
    assert re.findall(r"\]\(\.\./(.*?)\)", text) == list(drawn) and len(drawn) == len(shown)
    assert text.count("![What lesson") == len(shown) and "Recorded on 20" in text
    for part, svg in zip(shown, drawn.values()):
        assert words_of(svg) == "".join("".join(part.plain).split()), part.title


def words_of(svg: str) -> str:
    """What a picture says, without spaces."""
    said = "".join(re.findall(r"<text[^>]*>(.*?)</text>", svg, flags=re.DOTALL))
    for name, sign in (("&#160;", ""), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#x27;", "'"), ("&amp;", "&")):
        said = said.replace(name, sign)
    return "".join(said.split())


def test_no_picture_asks_for_anything_from_elsewhere() -> None:
    made = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "img").rglob("*.svg")}
    made |= pictures.of_pages()
    for number in LESSONS:
        made |= runs.pictures(number) | pictures.of_lesson(number)
    for name, text in made.items():
        text = text.replace("http://www.w3.org/", "")
        assert "http:" not in text and "https:" not in text and "@import" not in text, name


def test_pictures_that_pages_show_are_there() -> None:
    made = set(pictures.of_pages()) | {path for number in LESSONS for path in pictures.of_lesson(number)}
    kept = {f"img/{path.name}" for path in (DOCS / "img").glob("*.svg")}
    texts = [marks.MARK.sub(r"](\2)", text) for text in PAGES.values()]
    shown = {path for text in texts for path in re.findall(r"\]\((?:\.\./)?(img/[^)]*\.svg)\)", text)}
    assert shown <= made | kept and made <= shown and not made & kept


def test_a_line_is_drawn_in_its_styles() -> None:
    svg = draw([["plain ", ["bold #56b4e9", "a < b"]], [], [["#000000 on #f0e442", "new"]]])
    assert "fill: #56b4e9;font-weight: bold" in svg and "a&#160;&lt;&#160;b" in svg
    assert '<rect fill="#f0e442" x="0"' in svg and 'viewBox="-14 -14 1126.0 101.2"' in svg


def test_a_line_of_richs_is_kept_as_it_looks() -> None:
    """Spaces go without a style, unless one could see it."""
    text = Text.assemble(
        "a ", (" b ", "bold"), ("  ", "dim"), ("c", "bold"), ("  ", "on #17503f"), (" d ", "dim"), "  "
    )
    assert spans(text) == ["a  ", ["bold", "b"], "   ", ["bold", "c"], ["on #17503f", "  "], " ", ["dim", "d"]]
    assert spans(Text("  ")) == []


def test_every_lessons_probes_are_in_its_chapter() -> None:
    for number, path in lesson_files().items():
        text = probes.of_lesson(number)
        for name in probes.breaks(path).split(","):
            assert f'!!! probe "{name}"' in text, (path.name, name)


@pytest.mark.parametrize("number", LESSONS)
def test_every_lessons_tasks_are_in_its_chapter(number: str) -> None:
    rows = re.findall(
        rf"^\| ({int(number)}\.\d+) \| .* \| `.*` in `(minillm/.*\.py)` \|", exercises.of_lesson(number), re.M
    )
    assert rows and all((ROOT / file).is_file() for _, file in rows)


def test_the_api_has_a_page_for_each_room() -> None:
    pages = api.pages()
    rooms = {path.parent.name for path in (ROOT / "minillm").glob("*/__init__.py")} - {"cli", "assets"}
    assert {path.split("/")[1].removesuffix(".md") for path in pages} == rooms | {"index"}
    named = [module for text in pages.values() for module in re.findall(r"^::: (\S+)$", text, re.M)]
    assert len(named) == len(set(named))


def test_the_navigation_names_only_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "lessons").mkdir()
    for name in ("index.md", "lessons/03_c.md", "lessons/03_c.zh.md", "lessons/01_a.md", "lessons/08_h.md"):
        (tmp_path / name).write_text("# Page", encoding="utf-8")
    given = [{"Start": ["index.md", {"Plan": "study.md"}]}, {"One": "lessons 1-7"}, {"Four": "lessons 20-24"}]
    assert nav.fill(given, tmp_path, []) == [{"Start": ["index.md"]}, {"One": ["lessons/01_a.md", "lessons/03_c.md"]}]
    made = ["api/engine.md", "api/index.md", "api/attention.md"]
    assert nav.fill([{"API": "api"}], tmp_path, made) == [
        {"API": ["api/index.md", "api/attention.md", "api/engine.md"]}
    ]


def test_markdown_leaves_code_alone() -> None:
    assert code("a.__len__() | b[0]") == "<code>a.&#95;&#95;len&#95;&#95;() &#124; b&#91;0&#93;</code>"
    assert code("a < b") == "<code>a &lt; b</code>"


def test_fields_become_a_list() -> None:
    pytest.importorskip("griffe", reason="comes with the site's tools: python3 scripts/start.py setup docs")
    from pages.docstrings import with_lists

    given = "A page.\n\nsize: tokens it holds,\n    sixteen as a rule.\nfirst, last: its slots.\n\nThe end: it is free."
    made = "- `size`: tokens it holds,\n    sixteen as a rule.\n- `first`, `last`: its slots."
    assert with_lists(given) == f"A page.\n\n{made}\n\nThe end: it is free."
