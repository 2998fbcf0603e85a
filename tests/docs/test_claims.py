"""What the pages say of numbers is so: every claim holds, and no sentence about something measured is without one."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from pages import claims, marks, sentences  # noqa: E402
from pages.claims import Claim, problem  # noqa: E402
from pages.clone import DOCS  # noqa: E402
from pages.tables import Value, Values, of_page, of_run  # noqa: E402

PAGES = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
CHAPTERS = [page for page in PAGES if marks.number_of(page)]
# A page to try claims on.
PAGE = """# Speed

## Here

| engine | tokens/s | time |
| --- | --- | --- |
| **ours** | 1,200 | 54 ms (51 to 60) |
| theirs | 400 | 0.1 s |

## Empty
"""


@pytest.mark.parametrize("page", PAGES)
def test_every_claim_holds(page: str) -> None:
    wrong = [problem(claim, PAGES[page]) for claim in claims.claims_of(PAGES[page], page)]
    assert not any(wrong), "\n\n" + "\n\n".join(filter(None, wrong))


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_chapter_claims_what_it_says_of_its_run(page: str) -> None:
    """A sentence about something measured says how to check it, or where it is from. Neither shows to a reader."""
    bare = [f"docs/{page}:{line}: {sentence}" for line, sentence in sentences.unclaimed(PAGES[page])]
    assert not bare, (
        "these sentences speak of something measured. Behind each put <!-- claim: ... --> (scripts/pages/claims.py "
        "says what may stand there), or <!-- from: ... --> if it is arithmetic, a definition or from elsewhere:\n"
        + "\n".join(bare)
    )
    assert list(claims.claims_of(PAGES[page], page))


@pytest.mark.parametrize("page", PAGES)
def test_no_comment_parts_a_paragraph(page: str) -> None:
    """A line that begins with a comment is no text: what follows it would be another paragraph."""
    parting = re.findall(r"^\s*<!-- (?:claim|from|all from): .*-->[ \t]*\n[ \t]*\w.*$", PAGES[page], flags=re.MULTILINE)
    assert not parting
    assert PAGES[page].count("<!-- claim:") == len(list(claims.claims_of(PAGES[page], page)))


def check(text: str) -> str:
    return problem(Claim("study.md", 7, text), PAGE)


@pytest.mark.parametrize(
    "text",
    [
        'cell("Here", "ours", "tokens/s") == 3 * cell("Here", "theirs", "tokens/s")',
        'cell("Here", "ours", "time") < cell("Here", "theirs", "time")',
        'cell("Here", "ours", "time").low == 0.051 and cell("Here", "ours", "time").high == 0.06',
        'column("Here", "tokens/s").spread < 4 and column("Here", "tokens/s").falls',
        'column("Here", "tokens/s") == [1200, 400]',
        'near(row("Here", "theirs").first, 500, 1.3) and not says("Here", "vLLM")',
        'capture_sizes(4) == [1, 2, 4] and probes() > 30 and questions("01") == 5',
        '"self._step_now" in calls("engine/core.py", "EngineCore.step")',
        'cell("performance.md: What each part brought", "and CUDA graphs", "single") == 922',
    ],
)
def test_a_true_claim(text: str) -> None:
    assert check(text) == ""


@pytest.mark.parametrize(
    "text, says",
    [
        ('cell("Here", "ours", "time") > 1', "study.md:7: cell("),  # page, line, claim
        ('cell("Here", "ours", "time") > 1', "is 54 ms (51 to 60)\n"),  # what was found
        ('cell("Here", "ours", "time") > 1', "record them again (scripts/record_runs.py)"),  # what to do
        ('column("Here", "tokens/s").grows', "is 1,200 | 400"),
        ('cell("Here", "ours", "time")', "must be true or false"),
        ('cell("There", "ours", "time") > 1', "no part 'There'"),
        ('cell("Here", "vLLM", "time") > 1', "0 tables of part 'Here' have a row 'vLLM' and a heading 'time'"),
        ('number("Here", "in {} years") > 1', "does not say 'in {} years'"),
        ('calls("engine/core.py", "EngineCore.leap") == 1', "has no EngineCore.leap"),
        ('open("x")', "a claim knows no open, only "),
        ('cell("Here", "ours", "time").__class__ == 1', "a claim knows no .__class__"),
        ("[x for x in (1,)] == 1", "a claim has no ListComp"),
        ("1 <", "cannot be checked"),
    ],
)
def test_a_wrong_claim_is_told(text: str, says: str) -> None:
    assert says in check(text).replace("there are 0 parts", "no part")


def test_a_number_as_a_reader_sees_it() -> None:
    for text, number in (
        ("54 ms", 0.054), ("1.17 MiB", 1.17 * 2**20), ("1,850", 1850), ("3.9x less", 3.9), ("→ 2.52", 2.52),
        ("below 1e-05", 1e-5), ("**4.4**", 4.4), ("████▏··· 26%", 26), ("-14.2", -14.2), ("+9%", 9), ("2 s", 2),
        ("32.97", 32.97), ("4.17 TB/s, 31 %", 4.17e12), ("712 us", 712e-6),
    ):  # fmt: skip
        assert Value.read(text) == pytest.approx(number), text
    for text in ("within noise", "-", "", "True"):
        value = Value.read(text)
        assert not value < 1 and not value > 1, text
    assert (Value.read("54 (51 to 60) ms").low, Value.read("54 ms (51 ms to 60 ms)").high) == (51, 0.06)
    assert Values(map(Value.read, ("1", "2", "4"))).grows and not Values(map(Value.read, ("1", "1"))).grows


def test_a_lessons_table_is_read_as_it_looks() -> None:
    lines = [
        "A table of two:", "", "           cached", "  request  tokens  page table", "  ──────────────────────────",
        "  A            10  page 0", "  C           198  page 2 → page 3", "                   → page 4", "",
        "  other      ms", "  ─────────────", "  one thing   3", "",
    ]  # fmt: skip
    first, second = of_run(lines)
    assert first.headings == ["request", "cached tokens", "page table"]
    assert first.rows == [["A", "10", "page 0"], ["C", "198", "page 2 → page 3 → page 4"]]
    assert second.rows == [["one thing", "3"]] and second.column_of("ms") == 1
    assert first.column_of("cached") == 1 and first.column_of("page") == 2 and first.row_of("B") is None
    assert of_page(PAGE)[0].headings == ["engine", "tokens/s", "time"] and of_page(PAGE)[0].row_of("ours") == 0


@pytest.mark.parametrize(
    "text, bare",
    [
        ("A step takes 3 ms. It is blue.", ["A step takes 3 ms."]),
        ("A step takes 3 ms. <!-- claim: 1 < 2 --> The next 4 ms.", ["The next 4 ms."]),
        ("A step takes 3\nms.\n<!-- from: the paper -->", []),
        ("It takes 3 ms. Then 4 ms. <!-- all from: a sum -->", []),
        ("It is faster ([measured](../performance.md)). It is much slower.", ["It is much slower."]),
        ("| a table | 3 ms |\n\n```\n3 ms\n```\n\nThe code `3 ms`.", []),
        ("The tree has 3 nodes.\n\n## The run\n\n1. **Nodes.** It has 3 nodes.\n2. See part 3.", ["It has 3 nodes."]),
        ("## Check yourself\n\nIt takes 3 ms.\n\n## More\n\nIt takes twice as long.", ["It takes twice as long."]),
        ("> [!TIP]\n> **Title**\n>\n> It takes 3 ms.\n> It is blue.", ["It takes 3 ms."]),
        ("- one\n- two runs at 20 GB/s\n- three", ["two runs at 20 GB/s"]),
    ],
)  # fmt: skip
def test_sentences_about_something_measured_are_found(text: str, bare: list[str]) -> None:
    assert [sentence for _, sentence in sentences.unclaimed(text)] == bare


def test_the_site_has_no_claims() -> None:
    text = "It is 3. <!-- claim: 1 < 2 -->\n<!-- from: the\npaper -->\nAnd so on.\n\n<!-- made: trace -->\n"
    assert claims.without(text) == "It is 3.\nAnd so on.\n\n<!-- made: trace -->\n"
    for page in PAGES.values():
        assert COMMENTS.isdisjoint(re.findall(r"<!-- [a-z ]+:", claims.without(page)))


COMMENTS = {"<!-- claim:", "<!-- from:", "<!-- all from:"}
