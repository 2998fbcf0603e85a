"""The built site has all that is made for it, and building it leaves nothing in docs/. No browser is needed."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from pages import api, pictures, runs  # noqa: E402
from pages.clone import DOCS, lesson_files  # noqa: E402


def test_every_made_file_is_in_the_site_and_nowhere_else(site: Path) -> None:
    made = pictures.of_pages()
    for number in lesson_files():
        made |= runs.pictures(number) | pictures.of_lesson(number)
    for path, text in made.items():
        assert (site / path).read_text(encoding="utf-8") == text, path
        assert not (DOCS / path).exists(), path
    for path in api.pages():
        assert (site / path).with_suffix(".html").is_file() and not (DOCS / path).exists(), path


def test_marks_and_their_stand_ins_are_gone(site: Path) -> None:
    for page in [*site.glob("*.html"), *site.glob("lessons/*.html")]:
        text = page.read_text(encoding="utf-8")
        assert "<!-- made:" not in text and "The built site " not in text, page.name


def test_data_is_not_published(site: Path) -> None:
    assert not (site / "data").exists()
