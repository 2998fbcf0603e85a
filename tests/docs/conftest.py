"""The built site, a server for it on this machine, and a browser: made once for all the tests here."""

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from docs.browser import Browser, find_chromium

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as it is built now. MINILLM_SITE names one that is built already."""
    if built := os.environ.get("MINILLM_SITE"):
        return Path(built)
    if not all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings", "mkdocs_static_i18n")):
        pytest.skip("the site's tools are not installed; python3 scripts/start.py setup docs installs them")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where the site is served: ``http://127.0.0.1:PORT``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = find_chromium()
    if not program:
        pytest.skip("no Chromium on this machine; the site's looks are tested where there is one")
    browser = Browser(program)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def pages(site: Path) -> list[str]:
    """Every page, seen from the site's root."""
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
