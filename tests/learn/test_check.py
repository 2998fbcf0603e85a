"""The loop of an exercise: what a check says of code as learners write it, code that never ends included."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from learners import Learn, clean, environment, solve
from pseudo_terminal import Terminal

from minillm.debug.views.theme import make_console
from minillm.learn.checkpoints import Clock, Outcome
from minillm.learn.explain import dumped, why_failed, why_stopped
from minillm.learn.progress import Progress
from minillm.learn.registry import task
from minillm.learn.report import Report

in_a_terminal = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
GROWN = "pages.extend(new)"  # a line of 3.2
STUBBORN = """while True:
            try:
                len(pages)
            except BaseException:
                continue"""


def line_of(path: Path, text: str) -> int:
    return next(i for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if text in line)


def test_a_check_says_what_passed_what_failed_and_where_it_was_stopped(learn: Learn, my: Path) -> None:
    """One run with all of it: prints, a failure in full, one as a line, a loop that keeps itself alive, the rest."""
    path = solve(
        my, "03", "3.4",
        **{
            "3_1": ("if count >", 'print("asked for", count)\n        if count >'),
            "3_2": (GROWN, "pages.extent(new)"),
            "3_3": ("for page in pages:", f"{STUBBORN}\n        for page in pages:"),
        },
    )  # fmt: skip
    Progress().save()
    began = time.monotonic()
    text = clean(learn("check", "03", "--patience", "1"), 1)
    assert time.monotonic() - began < 90
    assert "  ✓ a page that is handed out is held once\n      │ asked for 1\n      │ asked for 3\n" in text
    assert "(4" not in text and "  done. Race it: python -m minillm learn race 3.1\n" in text
    full = "      PagePool.append raised AttributeError: 'list' object has no attribute 'extent'\n      at "
    assert text.count(full) == 1 and f"ex03.py, line {line_of(path, 'extent')}, in append:\n" in text
    assert "          pages.extent(new)\n" in text
    assert "  ✗ a prompt gets all its pages at once  (the same)\n" in text
    assert "  ✗ pages go back on top in their order: after 1 s this line was still running:\n" in text
    assert (
        re.search(r"0 of (\d) pass, \d not run\. A hint: python -m minillm learn hint 3\.3", text)
        and "Not run: 3.4.\n" in text
    )
    assert "Still to be written: 3.5." in text
    progress = Progress()
    assert progress.done("3.1") and not progress.done("3.3") and not progress.done("3.4")


LOOPS = {
    "a sleep": "import time; time.sleep(1000)",
    "a lock": "import threading; one = threading.Lock(); one.acquire(); one.acquire()",
    "a call into C that holds on": "sum(range(10**13))",
    "a wait in finally": "\n        try:\n            raise ValueError\n        finally:\n            while True: pass",
}


@pytest.mark.ci
@pytest.mark.parametrize("name", LOOPS)
def test_whatever_does_not_end_is_named_with_its_line(learn: Learn, my: Path, name: str) -> None:
    path = solve(my, "03", **{"3_2": (GROWN, LOOPS[name])})
    text = clean(learn("check", "3.2", "--patience", "1"), 1)
    assert "after 1 s this line was still running:\n" in text
    last = LOOPS[name].splitlines()[-1].strip()
    assert f"ex03.py, line {line_of(path, last)}, in append:\n          {last}\n" in text
    assert "\n  0 of " in text and " not run. A hint: " in text


@pytest.mark.ci
def test_a_loop_at_the_top_of_the_file_and_one_that_prints(learn: Learn, my: Path) -> None:
    path = solve(my, "03", "3.2")
    path.write_text(path.read_text(encoding="utf-8") + "\nwhile True:\n    pass\n", encoding="utf-8")
    text = clean(learn("check", "3.2", "--patience", "1"), 1)
    first = line_of(path, "while True")  # or the line in the loop
    assert "still running:" in text and re.search(rf"ex03\.py, line ({first}|{first + 1}):\n", text)
    solve(my, "03", **{"3_2": (GROWN, 'while True: print("round and round")')})
    text = clean(learn("check", "3.2", "--patience", "1"), 1)
    assert "lines before these)\n      │ round and round\n" in text and text.count("round and round") <= 22


ENDINGS = {
    "exit()": "your code ends the whole program (exit, quit or SystemExit)",
    "import os; os._exit(3)": "the process ended in the middle of this test, with status 3",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "import ctypes; ctypes.string_at(0)": "the process crashed in this test (signal 11)",
}


@pytest.mark.ci
@pytest.mark.parametrize("code", ENDINGS)
def test_code_that_ends_the_process(learn: Learn, my: Path, code: str) -> None:
    path = solve(my, "03", **{"3_2": (GROWN, code)})
    text = clean(learn("check", "3.2"), 1)
    assert f"      {ENDINGS[code]}\n      at " in text
    assert f"ex03.py, line {line_of(path, code)}, in append:\n          {code}\n" in text


@pytest.mark.ci
def test_exit_at_the_top_of_the_file(learn: Learn, my: Path) -> None:
    path = solve(my, "03", "3.2")
    path.write_text(path.read_text(encoding="utf-8") + "\nexit()\n", encoding="utf-8")
    text = clean(learn("check", "3.2"), 1)
    assert f"ex03.py, line {line_of(path, 'exit()')}, ends the whole program, while the file was read" in text
    assert text.count("(the same)") >= 5


@pytest.mark.ci
def test_a_signature_that_the_engine_does_not_call(learn: Learn, my: Path) -> None:
    solve(my, "03", **{"3_2": (", num_tokens: int", "")})
    text = clean(learn("check", "3.2"), 1)
    assert "PagePool.append() takes 2 positional arguments but 3 were given\n" in text
    assert "      the engine calls:  def append(self, pages: list[int], num_tokens: int)\n" in text
    assert "      yours is:          def append(self, pages: list[int])\n" in text


@pytest.mark.ci
def test_recursion_without_an_end(learn: Learn, my: Path) -> None:
    path = solve(my, "03", **{"3_2": ("new = self.allocate", "new = self.append(pages, num_tokens); self.allocate")})
    text = clean(learn("check", "3.2"), 1)
    assert "RecursionError: append calls itself without an end\n" in text
    assert text.count(f"line {line_of(path, 'self.append')}, in append") == 1


@in_a_terminal
@pytest.mark.ci
def test_breakpoint_and_pdb_in_a_terminal(my: Path, tmp_path: Path) -> None:
    solve(my, "03", **{"3_2": (GROWN, 'print("before")\n        breakpoint()\n        pages.extent(new)')})
    command = [sys.executable, "-m", "minillm", "learn", "check", "3.2", "--patience", "1"]
    with Terminal(command, tmp_path, environment(my)) as terminal:
        shown = terminal.until("(Pdb) ")
        assert "stopped in: a page is added only when" in shown and "before\n" in shown and "in append()" not in shown
        assert "-> pages.extent(new)" in shown
        time.sleep(2)  # longer than a test may take: nobody stops a person
        terminal.press("p new, num_tokens\n")
        terminal.until("([0], 1)")
        terminal.until("(Pdb) ")
        terminal.press("q\n")
        terminal.until("you have left the debugger here")
        assert terminal.ended() == 1
    solve(my, "03", **{"3_2": (GROWN, "pages.extent(new)")})
    with Terminal([*command, "--pdb"], tmp_path, environment(my)) as terminal:
        shown = terminal.until("(Pdb) ")
        assert "AttributeError: 'list' object has no attribute 'extent'" in shown and "-> pages.extent(new)" in shown
        terminal.press("q\n")
        terminal.until(" not run. A hint: python")
        assert terminal.ended() == 1


@pytest.mark.ci
def test_breakpoint_without_a_terminal_is_passed_over(learn: Learn, my: Path) -> None:
    solve(my, "03", **{"3_2": (GROWN, f"breakpoint()\n        {GROWN}")})
    text = clean(learn("check", "3.2"))
    assert "is passed over: there is no terminal to talk to)" in text and "  done." in text


@pytest.mark.ci
@in_a_terminal
def test_watch_in_a_terminal(my: Path, tmp_path: Path) -> None:
    """The current exercise only; keys; one that passes leads to the next; a save ends a check that runs."""
    solve(my, "03", **{"3_1": ("if count >", "while True: pass\n        if count >")})
    command = [sys.executable, "-m", "minillm", "learn", "watch", "03"]
    with Terminal(command, tmp_path, environment(my)) as terminal:
        shown = terminal.until("… pages come from the top")
        assert "[------------------------------] 0 of 5" in shown and "3.2" not in shown
        solve(my, "03", "3.1")
        shown = terminal.until("q quit", seconds=60)
        assert "done. Race it: python -m minillm learn race 3.1" in shown and "still running" not in shown
        assert "1 of 5" in shown and "3.2  let a page table grow" in shown
        terminal.press("h")
        assert "hint 1 of 3" in terminal.until("q quit")
        terminal.press("n")
        assert "3.3  give pages back" in terminal.until("q quit")
        terminal.press("l")
        assert "✓ 3.1  take pages off the free list  done" in terminal.until("q quit")
        terminal.press("q")
        assert terminal.ended() == 0
    with Terminal(command, tmp_path, environment(my)) as terminal:
        terminal.until("q quit")
        terminal.press("\x03")
        assert terminal.ended() == 0
        assert "Traceback" not in terminal.everything


@pytest.mark.ci
def test_watch_without_a_terminal(my: Path, tmp_path: Path) -> None:
    path = solve(my, "02")
    command = [sys.executable, "-u", "-m", "minillm", "learn", "watch", "02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment(my)) as process:
        assert process.stdout
        seen = ""

        def until(words: str) -> None:
            nonlocal seen
            end = time.monotonic() + 60
            while words not in seen and time.monotonic() < end:
                assert process.stdout
                seen += process.stdout.readline()
            assert words in seen
            seen = ""

        until("A hint: python -m minillm learn hint 2.1")
        until("watching")
        path.write_text("def (", encoding="utf-8")
        until("is no Python")
        until("watching")
        solve(my, "02", "2.1")
        until("All of Lesson 02, kv cache is done.")
        process.terminate()


def outcome(state: str, message: str = "", printed: str = "", test: str = "a test") -> Outcome:
    return Outcome(task("3.2"), test, state, message, ["at my/ex03.py, line 3:"] if message else [], printed)


def report(*outcomes: Outcome, width: int = 80) -> str:
    console = make_console(plain=True, width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    shown = Report([task("3.2")], console)
    for one in outcomes:
        shown.add(one)
    return console.export_text()


def test_only_the_first_failure_is_told_in_full() -> None:
    second = outcome("failed", "something else " + "x" * 100)
    text = report(outcome("failed", "wrong"), outcome("failed", "wrong"), second)
    assert text.count("      wrong\n      at my/ex03.py, line 3:\n") == 1 and "  x a test  (the same)\n" in text
    (line,) = [line for line in text.splitlines() if "something else" in line]
    assert line.startswith("  x a test: something") and line.endswith("...") and len(line) <= 80


def test_what_was_printed_is_trimmed_and_made_safe() -> None:
    text = report(outcome("passed", printed="".join(f"line {i}\n" for i in range(50)) + "\x1b[31mred\tend\n"))
    assert "      | (31 lines before these)\n      | line 31\n" in text and "line 30\n" not in text
    assert "      | ?[31mred end\n" in text and "\x1b" not in text


def test_the_last_dump_of_the_learners_thread_counts(my: Path) -> None:
    solve(my, "03", "3.2")
    other = 'Thread 0x01 (most recent call first):\n  File "/lib/threading.py", line 5 in wait\n'
    mine = (
        f'Thread 0x02 (most recent call first):\n  File "{my}/ex03.py", line 3 in append\n  File "/x.py", line 1 in f\n'
    )
    frames = dumped(other + mine + other)
    assert [frame[:3] for frame in frames] == [("/x.py", 1, "f"), (f"{my}/ex03.py", 3, "append")]
    message, lines = why_stopped(task("3.2"), frames, "after 10 s")
    assert message == "after 10 s this line was still running:" and lines[0].endswith("ex03.py, line 3, in append:")


def test_a_loop_in_the_engine_is_told_from_one_in_the_learners_code(my: Path) -> None:
    import minillm.engine.engine as engine

    solve(my, "03", "3.2")
    message, lines = why_stopped(task("3.2"), [(engine.__file__, 1, "step", "a line")], "after 10 s")
    assert "at none of your lines" in message and "engine.py, line 1, in step:" in lines[0] and "append" in lines[-1]
    told = {"kind": "Failed", "text": "DID NOT RAISE <class 'minillm.kvcache.pages.OutOfPages'>", "frames": []}
    assert why_failed(task("3.2"), told)[0] == "OutOfPages was to be raised, and nothing was"


def test_the_clock_counts_sleep_and_work() -> None:
    """Both use up a test's patience; a process that has ended uses none up."""
    for code in ("import time; time.sleep(30)", "while True: pass"):
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            clock, end = Clock(process.pid, 1.0), time.monotonic() + 30
            while not (said := clock.out()) and time.monotonic() < end:
                time.sleep(0.1)
            process.kill()
        assert said.startswith(("after 1 s", "after 6 s"))
    assert Clock(process.pid, 1.0).out() == ""
