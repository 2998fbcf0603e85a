"""What mkdocs calls while it builds the site, to make what comes from data and code: pages, parts of pages, pictures.

Nothing of it is ever written into docs/: ``mkdocs build`` and ``mkdocs serve`` have it in memory. What is made from:
the lessons' recorded runs (runs.py), the probes (probes.py), the exercises (exercises.py), the glossary (glossary.py),
measurements (pictures.py) and the docstrings (api.py). Chapters are found by listing docs/lessons.
"""

import logging
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.plugins import CombinedEvent, event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "scripts")) if path not in sys.path]

from pages import api, claims, forge, marks, nav, pictures, probes, runs  # noqa: E402
from pages.clone import COMMAND, lesson_files  # noqa: E402

log = logging.getLogger("mkdocs.hooks.minillm")  # below mkdocs's own: with --strict, what it warns of is an error


def made_files() -> dict[str, str]:
    """Every file of the site that is made, by its path in docs/."""
    made = api.pages() | pictures.of_pages()
    for number in lesson_files():
        if not runs.path_of(number).exists():
            log.warning(f"lesson {number} was never recorded; {COMMAND} {number} does that")
            continue
        made |= runs.pictures(number) | pictures.of_lesson(number)
    return made


def on_config(config: Any) -> Any:
    """mkdocs.yml is read: the navigation is filled."""
    config.nav = nav.fill(config.nav, Path(config.docs_dir), list(api.pages()))
    return config


def on_pre_build(config: Any) -> None:
    """A build begins; with ``mkdocs serve``, again whenever something was saved."""
    probes.read_anew()


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page is read: what is made comes in at its marks."""
    path = page.file.src_uri
    try:
        return marks.fill(forge.for_site(claims.without(markdown)), path)
    except FileNotFoundError:  # a chapter before its lesson was recorded; `made_files` has told of it
        return markdown
    except ValueError as error:
        raise PluginError(str(error)) from error


# The plugin for translations takes a file for ours only if it would lie in docs/, and makes a new object of it. So the
# files are announced before it as if they did, and get their contents after it.


@event_priority(100)
def _announce(files: Files, config: Any) -> Files:
    _made.clear()
    _made.update(made_files())
    for path in _made:
        files.append(File(path, config.docs_dir, config.site_dir, config.use_directory_urls))
    return files


@event_priority(-200)
def _give_contents(files: Files, config: Any) -> Files:
    for file in files:
        if file.src_uri in _made:
            file.content_string = _made[file.src_uri]
    return files


_made: dict[str, str] = {}
on_files = CombinedEvent(_announce, _give_contents)
