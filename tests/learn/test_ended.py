"""Runs that are ended before their end: a loop is stopped, and an interrupted check gives no verdict."""

import io

import pytest

from minillm.debug.views.theme import make_console
from minillm.learn import diff
from minillm.learn.checkpoints import Outcome
from minillm.learn.registry import task
from minillm.learn.report import Report


def test_a_loop_is_stopped_even_if_it_catches_what_stops_it() -> None:
    caught = 0
    with pytest.raises(diff.TooLong), diff.at_most(1):
        while True:
            try:
                while True:
                    pass
            except diff.TooLong:
                if caught:
                    raise
                caught = 1
    assert caught


def test_an_interrupted_check_says_nothing_of_what_it_did_not_see() -> None:
    paper = io.StringIO()
    report = Report([task("3.1")], make_console(plain=True, file=paper))
    report.add(Outcome(task("3.1"), "a page is taken", "running"))
    report.drop()
    report.close()
    assert "3.1" in paper.getvalue() and "done" not in paper.getvalue()


def test_failures_that_differ_in_their_numbers_are_the_same() -> None:
    paper = io.StringIO()
    report = Report([task("3.1")], make_console(plain=True, file=paper, width=100))
    for i in range(3):
        report.add(
            Outcome(task("3.1"), f"test {i}", "failed", f"allocate: 2 pages of {i} are free, and {i + 1.5} is right")
        )
    report.add(Outcome(task("3.1"), "another", "failed", "allocate: gave None, and a list is right"))
    said = paper.getvalue()
    assert said.count("(the same, with other numbers)") == 2 and ": allocate: gave None" in said
