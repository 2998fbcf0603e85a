"""Every page of the built site, in a browser: silent, at home, and narrow enough for a phone."""

from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from docs.browser import Browser

WIDE = """
(() => {
  const page = document.documentElement;
  if (page.scrollWidth <= page.clientWidth) return [];
  const inside = (e) => ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX);
  const scrolls = (e) => e && (inside(e) || scrolls(e.parentElement));
  return [`the page is ${page.scrollWidth} wide`, ...[...document.querySelectorAll(".md-content *")]
    .filter((e) => e.getBoundingClientRect().right > page.clientWidth + 1 && !scrolls(e.parentElement))
    .slice(0, 5).map((e) => e.outerHTML.slice(0, 120))];
})()"""

CONTRAST = """
(() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((x) => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const text = parse(getComputedStyle(document.querySelector(".md-content p, .md-content h1")).color);
  const ground = parse(getComputedStyle(document.body).backgroundColor);
  const alpha = text[3] ?? 1;
  const seen = text.slice(0, 3).map((x, i) => x * alpha + ground[i] * (1 - alpha));
  const [a, b] = [light(seen), light(ground)].sort((x, y) => y - x);
  return { contrast: (a + 0.05) / (b + 0.05), dark: light(ground) < 0.2 };
})()"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_page_complains_or_calls_elsewhere(browser: Browser, address: str, pages: list[str], dark: bool) -> None:
    browser.requests.clear()
    browser.complaints.clear()
    browser.look(1280, dark=dark)
    for page in pages:
        browser.open(f"{address}/{page}")
        for picture in browser.evaluate(
            "[...document.images].map((i) => [i.src, i.loading, i.complete, i.naturalWidth])"
        ):
            assert picture[1] == "lazy" or (picture[2] and picture[3] > 0), f"{page}: {picture[0]} does not show"
        assert browser.complaints == [], page
        browser.wait_until(f"document.body.dataset.mdColorScheme === '{'slate' if dark else 'default'}'")
        seen = browser.evaluate(CONTRAST)
        assert seen["dark"] is dark and seen["contrast"] >= 4.5, (page, seen)
    elsewhere = [url for url in browser.requests if not url.startswith((address, "data:", "blob:", "about:"))]
    assert elsewhere == []


@pytest.mark.parametrize("width", [400, 1280])
def test_no_page_scrolls_sideways(browser: Browser, address: str, pages: list[str], width: int) -> None:
    browser.look(width)
    wide = {}
    for page in pages:
        browser.open(f"{address}/{page}")
        if found := browser.evaluate(WIDE):
            wide[page] = found
    assert wide == {}


def test_every_link_leads_somewhere(browser: Browser, address: str, site: Path, pages: list[str]) -> None:
    """Of the site's own: the page exists, and the place in it."""
    links, places = {}, {}
    browser.look(1280)
    for page in pages:
        browser.open(f"{address}/{page}")
        links[page] = browser.evaluate("[...document.querySelectorAll('a[href]')].map((a) => a.getAttribute('href'))")
        places[page] = set(
            browser.evaluate("[...document.querySelectorAll('[id], a[name]')].map((e) => e.id || e.name)")
        )
    lost = []
    for page, targets in links.items():
        for target in targets:
            url, place = urldefrag(urljoin(f"{address}/{page}", target))
            if not url.startswith(address):
                continue
            path = unquote(urlsplit(url).path).lstrip("/") or "index.html"
            path += "index.html" if path.endswith("/") else ""
            known = place in ("", "__skip") or path not in places or unquote(place) in places[path]
            if not (site / path).is_file() or not known:
                lost.append(f"{page}: {target}")
    assert lost == []


def test_the_scheme_can_be_switched(browser: Browser, address: str) -> None:
    """As the system, light, dark, and round again."""
    browser.look(1280, dark=True)
    browser.open(f"{address}/index.html")
    scheme = "document.body.dataset.mdColorScheme"
    browser.wait_until(f"{scheme} === 'slate'")
    try:
        for expected in ("default", "slate", "slate"):
            browser.evaluate("document.querySelector('form[data-md-component=palette] label:not([hidden])').click()")
            browser.wait_until(f"{scheme} === '{expected}'")
    finally:
        browser.evaluate("localStorage.clear()")


def test_search_finds(browser: Browser, address: str) -> None:
    browser.look(1280)
    browser.open(f"{address}/index.html")
    browser.evaluate("document.querySelector('label[for=__search]').click()")
    found = browser.evaluate(
        """new Promise((done) => {
          const input = document.querySelector('.md-search__input');
          input.focus(); input.value = 'page table'; input.dispatchEvent(new Event('input', {bubbles: true}));
          input.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true}));
          let tries = 0;
          const look = () => {
            const hits = [...document.querySelectorAll('.md-search-result__link')].map((a) => a.getAttribute('href'));
            hits.length || tries++ > 100 ? done(hits) : setTimeout(look, 100);
          };
          look();
        })"""
    )
    assert any("glossary" in hit or "paged" in hit for hit in found), found
