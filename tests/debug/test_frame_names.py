"""What a stop's header calls the values: by the probe's names, and by those that can be typed in the stopped frame."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from minillm.debug.catalogue import PACKAGE, Site, sites
from minillm.debug.debuggers import header
from minillm.debug.frame_names import _calls, frame_names
from minillm.probe import Event, listen, probe

PROGRAM = Path(__file__).with_name("scheduling.py")


@pytest.mark.parametrize("site", list(sites()), ids=lambda site: f"{site.name} {site.file}:{site.line}")
def test_every_probe_of_the_engine_is_found(site: Site) -> None:
    calls = [call for call in _calls(str(PACKAGE.parent / site.file)) if call[0] <= site.line <= call[1]]
    ((_, _, name, expressions),) = calls
    assert name == site.name and tuple(expressions) == site.values


def test_each_name_gives_the_value_in_the_frame() -> None:
    """Typed where the engine has stopped, the expression is what the probe was given."""
    tried: set[str] = set()

    def hear(event: Event) -> None:
        expressions = frame_names(event.name, event.frame)
        assert set(expressions) == set(event.values), event.name
        for key, expression in expressions.items():
            value: Any = eval(expression, event.frame.f_globals, event.frame.f_locals)
            assert value is event.values[key] or value == event.values[key], (event.name, expression)
        tried.add(event.name)

    with listen("*", hear):
        runpy.run_path(str(PROGRAM), run_name="__main__")
    assert {"kv.allocate", "kv.free", "scheduler.preempt", "scheduler.admit"} <= tried


def header_of(source: str, file: Path) -> str:
    """The header at the one probe of a program."""
    shown: list[str] = []
    with listen("*", lambda event: shown.append(header(event))):
        exec(compile(source, str(file), "exec"), {"probe": probe})
    return shown[0]


SOURCE = """
class Pool:
    size = 4
def use(it):
    probe.on and probe(
        "kv.free",
        request=it,
        pages=[it.size, 2], pool=None,
    )
    return it
use(Pool())
"""


def test_the_header_has_both_names(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(SOURCE, encoding="utf-8")
    shown = header_of(SOURCE, file)
    assert "\n   request (it) = Pool\n   pages ([it.size, 2]) = [4, 2]\n" in shown


@pytest.mark.parametrize("text", [None, "def (", "probe('kv.free', pages=1)", "\n" * 20])
def test_without_its_source_the_probes_names_must_do(text: str | None, tmp_path: Path) -> None:
    """Not written to a file, broken since, or changed: nothing wrong is said."""
    file = tmp_path / "program.py"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    assert "\n   request = Pool\n   pages = [4, 2]\n" in header_of(SOURCE, file)


def test_it_is_read_once() -> None:
    calls = _calls(str(PACKAGE / "kvcache" / "pages.py"))
    assert _calls(str(PACKAGE / "kvcache" / "pages.py")) is calls
