"""The probe itself: who hears what, and that nobody pays for it who does not listen."""

from collections.abc import Iterator
from typing import Any

import pytest

from minillm.probe import Event, listen, listening, probe, set_step


@pytest.fixture(autouse=True)
def _nobody_listens_before_or_after() -> Iterator[None]:
    assert not probe.on
    yield
    assert not probe.on
    set_step(0)


def names_of(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def test_a_listener_gets_name_values_step_time_and_frame() -> None:
    heard: list[Event] = []
    set_step(7)
    with listen("kv.*", heard.append):
        probe.on and probe("kv.allocate", request="r", pages=[1, 2])
    (event,) = heard
    assert (event.name, event.values, event.step) == ("kv.allocate", {"request": "r", "pages": [1, 2]}, 7)
    assert event.request == "r" and event.pages == [1, 2]
    assert event.time > 0
    assert event.frame.f_code.co_name == "test_a_listener_gets_name_values_step_time_and_frame"
    assert event.frame.f_locals["heard"] is heard


def test_a_value_that_is_not_there_says_which_are() -> None:
    heard: list[Event] = []
    with listen("*", heard.append):
        probe("kv.free", pages=[1], request=2)
    with pytest.raises(AttributeError, match=r"'kv\.free' has no value 'page'; it has \['pages', 'request'\]"):
        _ = heard[0].page


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("*", ["kv.allocate", "kv.free", "scheduler.plan"]),
        ("kv.*", ["kv.allocate", "kv.free"]),
        ("kv.free", ["kv.free"]),
        ("kv", []),
        (["scheduler.*", "*.free"], ["kv.free", "scheduler.plan"]),
        (("kv.*", "kv.free"), ["kv.allocate", "kv.free"]),  # once each, however many patterns match
    ],
)
def test_patterns(patterns: Any, expected: list[str]) -> None:
    heard: list[Event] = []
    with listen(patterns, heard.append):
        for name in ("kv.allocate", "kv.free", "scheduler.plan"):
            probe.on and probe(name)
    assert names_of(heard) == expected


def test_off_again_when_the_last_listener_closes() -> None:
    first, second = listen("kv.*", lambda _e: None), listen("*", lambda _e: None)
    assert probe.on
    first.close()
    first.close()  # closing twice is closing once
    assert probe.on
    second.close()
    assert not probe.on


def test_values_are_not_even_looked_up_when_nobody_listens() -> None:
    def never() -> int:
        raise AssertionError("looked up")

    assert not (probe.on and probe("kv.allocate", pages=never()))


def test_listening_says_whether_somebody_wants_that_one() -> None:
    assert not listening("kv.allocate")
    with listen("kv.*", lambda _e: None):
        assert listening("kv.allocate") and not listening("scheduler.plan")
    assert not listening("kv.allocate")


def test_listeners_hear_in_the_order_in_which_they_came() -> None:
    heard: list[str] = []
    with listen("*", lambda _e: heard.append("first")), listen("kv.*", lambda _e: heard.append("second")):
        probe("kv.free")
        probe("scheduler.plan")
    assert heard == ["first", "second", "first"]


def test_a_listener_that_came_later_hears_names_that_were_routed_before() -> None:
    outer: list[Event] = []
    inner: list[Event] = []
    with listen("*", outer.append):
        probe("kv.free")
        with listen("kv.free", inner.append):
            probe("kv.free")
        probe("kv.free")
    assert (len(outer), len(inner)) == (3, 1)


def test_a_listener_may_fire_probes_itself() -> None:
    heard: list[str] = []

    def callback(event: Event) -> None:
        heard.append(event.name)
        if event.name == "scheduler.plan":
            probe("kv.free")

    with listen("*", callback):
        probe("scheduler.plan")
    assert heard == ["scheduler.plan", "kv.free"]


def test_a_listener_may_close_itself() -> None:
    heard: list[str] = []

    def once(event: Event) -> None:
        heard.append(event.name)
        listener.close()

    listener = listen("*", once)
    for name in ("kv.allocate", "kv.free"):
        probe.on and probe(name)
    assert heard == ["kv.allocate"]


def test_steps() -> None:
    heard: list[Event] = []
    with listen("*", heard.append):
        for step in (1, 2, 5):
            set_step(step)
            probe("scheduler.begin")
    assert [event.step for event in heard] == [1, 2, 5]
