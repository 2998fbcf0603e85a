"""Breakpoints and log points: patterns, conditions, log lines, the environment. test_pdb and test_debugpy do stop."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from minillm import LLM
from minillm.debug import debuggers, stops
from minillm.debug.stops import arm, arm_from_environment
from minillm.probe import Event, probe, set_step
from minillm.request import Request, SamplingParams

PROGRAM = Path(__file__).with_name("scheduling.py")


@pytest.fixture(autouse=True)
def _disarmed_before_and_after() -> Iterator[None]:
    assert not probe.on
    yield
    assert not probe.on
    set_step(0)


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """The events at which a debugger would have opened."""
    events: list[Event] = []
    monkeypatch.setattr(debuggers, "stop", lambda event, _when: events.append(event))
    return events


def allocate(request: Any, pages: list[int]) -> None:
    twice = [2 * page for page in pages]
    probe.on and probe("kv.allocate", request=request, pages=pages, pool=None)
    assert twice


def preempt(request: Any) -> None:
    probe.on and probe("scheduler.preempt", request=request, for_request=None, scheduler=None)


def names_of(events: list[Event]) -> list[str]:
    return [event.name for event in events]


@pytest.mark.parametrize(
    "patterns",
    [
        "kv.allocate",
        "kv.*",
        "*",
        "request.add,kv.allocate",
        " kv.free , kv.allocate ,",
        ["kv.*", "request.*"],
        ("kv.*,",),
    ],
)
def test_patterns(patterns: Any, stopped: list[Event]) -> None:
    with arm(patterns):
        allocate(None, [1])
    assert names_of(stopped) == ["kv.allocate"]


def test_stops_once_however_many_patterns_match(stopped: list[Event]) -> None:
    with arm("kv.*,kv.allocate,*"):
        allocate(None, [1])
    assert names_of(stopped) == ["kv.allocate"]


@pytest.mark.parametrize("nothing", [None, "", " , ", [], [""]])
def test_nothing_to_arm(nothing: Any) -> None:
    with arm(nothing, log=nothing):
        assert not probe.on


def test_a_pattern_that_matches_no_probe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no probe is called 'kv\.alocate'; did you mean kv\.allocate"):
        arm("kv.free,kv.alocate")
    with pytest.raises(ValueError, match=r"no probe is called 'zzz\*'; there are: engine\.config, .*engine\.step"):
        arm(None, log="zzz*")
    assert not probe.on


def test_close_disarms(stopped: list[Event]) -> None:
    armed = arm("kv.*", log="kv.*")
    armed.close()
    armed.close()
    allocate(None, [1])
    assert not stopped


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("request.id == 2", ["kv.allocate"]),
        ("request.id == 1", ["scheduler.preempt"]),
        ("7 in pages", ["kv.allocate"]),  # no such value at scheduler.preempt
        ("event == 'scheduler.preempt'", ["scheduler.preempt"]),
        ("name == 'kv.allocate' and step == 3", ["kv.allocate"]),
        ("step > 3", []),
        ("14 in twice", ["kv.allocate"]),  # a local of the caller
        ("any(page in twice for page in [14])", ["kv.allocate"]),  # seen inside a comprehension too
        ("Path and request.id == 2", ["kv.allocate"]),  # a global of the caller's module
        ("  request.id == 2  ", ["kv.allocate"]),
        ("request", ["kv.allocate", "scheduler.preempt"]),  # anything true will do
        ("request.pages", []),
    ],
)
def test_conditions(when: str, expected: list[str], stopped: list[Event]) -> None:
    set_step(3)
    with arm("kv.allocate,scheduler.preempt", when):
        allocate(SimpleNamespace(id=2, pages=[]), [6, 7])
        preempt(SimpleNamespace(id=1, pages=[]))
    assert names_of(stopped) == expected


def test_an_event_s_value_wins_over_the_caller_s_local_of_the_same_name(stopped: list[Event]) -> None:
    def caller() -> None:
        request = SimpleNamespace(id=0)
        probe.on and probe("scheduler.preempt", request=SimpleNamespace(id=9), for_request=request, scheduler=None)

    with arm("scheduler.preempt", "request.id == 9 and for_request.id == 0"):
        caller()
    assert len(stopped) == 1


def test_a_condition_that_is_no_expression_is_shown_with_a_caret() -> None:
    with pytest.raises(ValueError) as caught:
        arm("kv.*", "request.id = 2")
    message = str(caught.value)
    assert message.startswith("the condition is no Python expression:")
    lines = message.splitlines()
    assert lines[1] == "    request.id = 2"
    assert lines[2].strip() == "^" and lines[2].index("^") >= 4
    with pytest.raises(ValueError, match="no Python expression"):
        arm("kv.*", "page ==")
    assert not probe.on


def test_a_condition_needs_something_to_stop_at() -> None:
    with pytest.raises(ValueError, match="say which probes, '\\*' for all"):
        arm(None, "request.id == 2", log="kv.*")


def test_a_condition_that_fails_is_reported_once_and_counts_as_false(
    stopped: list[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    with arm("kv.*", "page == 7"):
        allocate(None, [7])
        allocate(None, [7])
    assert not stopped
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("minillm: the condition 'page == 7' failed at probe kv.allocate (test_stops.py:") == 1
    assert "NameError: name 'page' is not defined" in printed.err
    assert "names there: request, pages, pool; event, name, step; of the caller: twice" in printed.err


def test_a_condition_whose_truth_fails_is_reported_too(
    stopped: list[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    with arm("kv.*", "request == 1"):  # a tensor of several numbers is neither true nor false
        allocate(torch.ones(2), [7])
    assert not stopped and "ambiguous" in capsys.readouterr().err


def test_a_log_point_prints_a_line_and_goes_on(stopped: list[Event], capsys: pytest.CaptureFixture[str]) -> None:
    set_step(12)
    request = Request(2, [1, 2, 3], SamplingParams(), max_tokens=4, seed=0)
    with arm(None, log="kv.*"):
        allocate(request, [6, 7])
        preempt(request)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "step 12  kv.allocate        request=r2  pages=[6, 7]  pool=None\n"
    assert not stopped


def test_log_and_break_together(stopped: list[Event], capsys: pytest.CaptureFixture[str]) -> None:
    with arm("kv.*", "7 in pages", log="*"):
        allocate(None, [6])
        allocate(None, [7])
    assert len(stopped) == 1
    assert capsys.readouterr().err.count("kv.allocate") == 2  # the condition is for stopping only


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process, which has not read its environment yet."""
    monkeypatch.setattr(stops, "_from_environment", None)
    for name in ("MINILLM_BREAK", "MINILLM_BREAK_WHEN", "MINILLM_LOG"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("fresh")
def test_the_environment_arms_once(monkeypatch: pytest.MonkeyPatch, stopped: list[Event]) -> None:
    monkeypatch.setenv("MINILLM_BREAK", "kv.*")
    monkeypatch.setenv("MINILLM_BREAK_WHEN", "7 in pages")
    with arm_from_environment() as armed:
        assert arm_from_environment() is armed
        allocate(None, [6])
        allocate(None, [7])
    assert len(stopped) == 1
    monkeypatch.setenv("MINILLM_BREAK", "nonsense")
    assert arm_from_environment() is armed and not probe.on  # it was read, and that is that


@pytest.mark.usefixtures("fresh")
def test_an_empty_environment_arms_nothing() -> None:
    arm_from_environment()
    assert not probe.on


@pytest.mark.usefixtures("fresh")
def test_a_wrong_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINILLM_LOG", "kv.alocate")
    message = r"did you mean kv\.allocate\?\n\(from the environment: MINILLM_LOG='kv\.alocate'\)"
    with pytest.raises(ValueError, match=message):
        arm_from_environment()


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(
    ("pages", "told"),
    [
        ([[6], [8]], "minillm: the condition '7 in pages' never held at 2 events of kv.allocate, request.add\n"),
        ([[6]], "minillm: the condition '7 in pages' never held at the one event of kv.allocate, request.add\n"),
        ([], "minillm: the condition '7 in pages' was never asked: no kv.allocate, request.add came by\n"),
        ([[6], [7]], ""),
    ],
)
def test_a_condition_that_never_held_is_told_of(
    pages: list[list[int]], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    armed = arm("kv.allocate,request.add", "7 in pages")
    for taken in pages:
        allocate(None, taken)
    assert capsys.readouterr().err == ""
    armed.close()
    armed.close()
    assert capsys.readouterr().err == told


@pytest.mark.ci
def test_whoever_waits_for_a_recording_that_is_not_made_is_told_why(capsys: pytest.CaptureFixture[str]) -> None:
    small = {"num_pages": 8, "max_num_seqs": 1, "max_model_len": 64}
    with arm(None, None, "graph.record"):
        LLM("nano-llama", enforce_eager=True, **small)
        assert capsys.readouterr().err == "minillm: graph.record will not come by in this engine: asked for\n"
        LLM("nano-llama", enforce_eager=False, **small)
        assert "will not come by" not in capsys.readouterr().err
