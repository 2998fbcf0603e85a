"""The pages as files, and as a forge shows them: nothing raw in them, every link and picture there."""

import re
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from pages import claims, forge, marks  # noqa: E402
from pages.clone import DOCS  # noqa: E402

FILES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_forge_shows_nothing_raw(file: Path) -> None:
    assert forge.raw_marks(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text, raw",
    [
        ('Text.\n\n!!! tip "Title"\n    Text.', ['!!! tip "Title"']),
        ('??? question "Why?"\n    So.', ['??? question "Why?"']),
        ("::: minillm.llm\n", ["::: minillm.llm"]),
        ("Press ++enter++.", ["++enter++"]),
        ("## A title { #place }", ["{ #place }"]),
        ('--8<-- "README.md"', ['--8<-- "README.md"']),
        ("{{ version }}", ["{{ version }}"]),
        ("Type `i++` or ++ and `{{ x }}`.\n\n```text\n!!! here\n```\n", []),
    ],
)
def test_what_is_raw_is_found(text: str, raw: list[str]) -> None:
    assert forge.raw_marks(text) == raw


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_link_leads_to_a_file_and_a_heading(file: Path) -> None:
    """Of the repository's own: also the place in the page, as a forge names it."""
    text = without_code(file.read_text(encoding="utf-8"))
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, place = urldefrag(unquote(target))
        if re.match(r"\w+:", path):
            continue
        there = (file.parent / path).resolve() if path else file
        known = (
            not place
            or not there.exists()
            or there.suffix != ".md"
            or place in places(there.read_text(encoding="utf-8"))
        )
        if not there.exists() or not known:
            lost.append(target)
    assert lost == []


def without_code(text: str) -> str:
    return re.sub(r"^( *(?:> )?)```.*?^\1```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def places(text: str) -> set[str]:
    """The anchors of a page's headings."""
    heads = re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def test_boxes_and_folds_become_the_sites() -> None:
    given = (
        "> [!TIP]\n> **When you are stuck**\n>\n> Ask:\n>\n> ```bash\n> learn hint\n> ```\n\n> [!NOTE]\n> Plain.\n\n"
        "<details>\n<summary>Why not <code>a &lt; b</code>?</summary>\n\nSo.\n\nAnd so.\n\n</details>\n"
        "\n> a quotation\n"
    )
    assert forge.for_site(given) == (
        '!!! tip "When you are stuck"\n\n    Ask:\n\n    ```bash\n    learn hint\n    ```\n\n!!! note\n\n    Plain.\n\n'
        '??? question "Why not `a < b`?"\n\n    So.\n\n    And so.\n\n> a quotation\n'
    )
    with pytest.raises(ValueError, match="double quote"):
        forge.for_site('> [!TIP]\n> **A "word"**\n>\n> Text.\n')


@pytest.mark.parametrize("file", FILES[2:], ids=NAMES[2:])
def test_no_box_and_no_fold_is_left_for_the_site(file: Path) -> None:
    text = forge.for_site(claims.without(file.read_text(encoding="utf-8")))
    assert "[!" not in text and "<details>" not in text and "<summary>" not in text
    assert "**</summary>" not in text and not re.search(r"^> \*\*", text, flags=re.MULTILINE)


def test_made_pictures_have_words_where_there_is_no_site() -> None:
    shown = [picture for file in FILES for _, picture, _ in marks.MARK.findall(file.read_text(encoding="utf-8"))]
    assert {"img/rooms.svg", "img/ladder.svg", "../img/17_experts_code.svg"} <= set(shown)
