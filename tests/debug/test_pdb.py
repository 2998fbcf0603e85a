"""Without an attached debugger a breakpoint opens pdb: a real program, with commands on its stdin."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minillm.debug.catalogue import locations

PROGRAM = Path(__file__).with_name("scheduling.py")


def run(commands: str | None, program: Path = PROGRAM, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with commands for pdb; None: it has no stdin at all."""
    settings = {**os.environ, "PYTHONIOENCODING": "utf-8", **environment}
    arguments = [sys.executable, str(program)]
    if commands is None:
        arguments = ["sh", "-c", 'exec "$@" <&-', "sh", *arguments]
    return subprocess.run(
        arguments, env=settings, input=commands, capture_output=True, encoding="utf-8", timeout=90, check=False
    )


def stop_lines(name: str) -> list[str]:
    """What pdb says of a stop at the statement after each place of a probe."""
    return [f"{Path(file).name}({stops_at})" for file, _, stops_at in locations()[name]]


def test_without_anything_armed_the_program_just_runs() -> None:
    done = run("")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "done after 10 steps and 1 preemptions\n"


def test_pdb_stops_in_the_callers_frame_and_goes_on() -> None:
    commands = "p request.pages\nwhere\np start, end\nc\n" + "p request.id, request.pages\nc\n" * 5
    done = run(commands, MINILLM_BREAK="kv.allocate")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (place,) = stop_lines("kv.allocate")
    header, first, *rest = done.stdout.split("── kv.allocate ── ")
    assert header.startswith("pdb: look (what to watch here)")
    assert first.startswith("step 1 ── manager.py:")
    assert "   A request got new pages" in first
    assert "   request = r0\n   pages (new_pages) = [0, 1]\n   pool (self.pool) = PagePool(2 of 5 pages" in first
    assert f"{place}take()\n-> if end // S > place.num_offered and place.node is not None:" in first
    assert "(Pdb) [0, 1]\n" in first  # p request.pages
    assert "in main\n" in first or "main()" in first  # where: the stack down to the program
    assert "debuggers.py" not in done.stdout and "probes.py" not in done.stdout
    assert "(Pdb) (0, 6)" in first
    assert [text.partition("(Pdb) ")[2].splitlines()[0] for text in rest] == [
        "(1, [2, 3])", "(0, [0, 1, 4])", "(1, [4, 1, 0])", "(2, [3, 2])", "(2, [3, 2, 0])",
    ]  # fmt: skip
    assert all(place in text for text in rest)
    assert done.stdout.endswith("done after 10 steps and 1 preemptions\n")


def test_pdb_with_a_condition() -> None:
    done = run("p victim.id, victim.pages\nc\n", MINILLM_BREAK="*", MINILLM_BREAK_WHEN="event == 'scheduler.preempt'")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(Pdb) ") == 2  # where it stopped, and the command that went on
    assert "   stopped because: event == 'scheduler.preempt'\n" in done.stdout
    assert "(Pdb) (1, [2, 3])\n" in done.stdout
    assert done.stdout.endswith("done after 10 steps and 1 preemptions\n")


def test_pdb_looks_at_what_the_catalogue_says() -> None:
    done = run("look\nu\nu\nlook\nq\n", MINILLM_BREAK="kv.allocate", MINILLM_BREAK_WHEN="request.id == 1")
    assert done.returncode == 0, done.stderr
    here, above = done.stdout.split("(Pdb) ")[1], done.stdout.split("(Pdb) ")[4]
    assert "   request.pages = [2, 3]   (the page table, the new pages last)\n" in here
    assert " ✓ no page twice: len(set(request.pages)) == len(request.pages) is True\n" in here
    assert "✗" not in here and "Error" not in here
    assert "   start, end = NameError: name 'start' is not defined" in above


def test_stepping_goes_past_the_probes_own_code() -> None:
    done = run("s\n" * 60 + "q\n", MINILLM_BREAK="scheduler.begin")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(Pdb) ") > 30
    assert "debuggers.py" not in done.stdout and "probes.py" not in done.stdout and "stops.py" not in done.stdout


def test_listeners_that_hear_the_probe_after_the_stop_are_not_stopped_in(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import runpy\n"
        "from minillm.probe import listen\n"
        "from minillm.debug.stops import arm\n"
        "def later(event):\n"
        "    print('heard', event.name)\n"
        "arm('kv.allocate')\n"
        "listen('kv.allocate', later)\n"
        f"runpy.run_path({str(PROGRAM)!r}, run_name='__main__')\n"
    )
    done = run("q\n", program)
    assert (done.returncode, done.stderr) == (0, "")
    (place,) = stop_lines("kv.allocate")
    assert done.stdout.index("heard kv.allocate") < done.stdout.index(place)
    assert done.stdout.count("(Pdb) ") == 1


@pytest.mark.parametrize("word", ["q", "quit", "exit"])
def test_quitting_ends_the_program_quietly(word: str) -> None:
    done = run(f"{word}\n", MINILLM_BREAK="kv.allocate")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("minillm: the program ends here, as you asked\n")


def test_the_end_of_input_ends_the_program_quietly() -> None:
    done = run("c\n", MINILLM_BREAK="kv.allocate")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("── kv.allocate ──") == 2
    assert done.stdout.endswith("minillm: the program ends here, because the input has ended\n")


@pytest.mark.skipif(sys.platform == "win32", reason="closes stdin with a POSIX shell")
def test_no_input_at_all_ends_the_program_quietly() -> None:
    done = run(None, MINILLM_BREAK="kv.allocate")
    assert (done.returncode, done.stderr) == (0, "")
    assert "── kv.allocate ──" in done.stdout
    assert done.stdout.endswith("minillm: the program ends here, because there is no input to take commands from\n")


def test_a_condition_that_never_held_is_told_of_at_the_end() -> None:
    done = run("", MINILLM_BREAK="kv.allocate", MINILLM_BREAK_WHEN="request.id == 9")
    assert (done.returncode, done.stdout) == (0, "done after 10 steps and 1 preemptions\n")
    assert done.stderr == "minillm: the condition 'request.id == 9' never held at 6 events of kv.allocate\n"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("hidden", ["stdout", "stdout and stderr"])
def test_in_a_terminal_one_sees_the_stop_wherever_the_output_goes(hidden: str, tmp_path: Path) -> None:
    """``python lessons/03_paged_attention.py --break kv.allocate > out.txt``, and with ``2>&1`` behind it."""
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "MINILLM_BREAK": "kv.allocate"}
    with (tmp_path / "out.txt").open("w") as file:
        stderr = theirs if hidden == "stdout" else file
        process = subprocess.Popen([sys.executable, PROGRAM], env=environment, stdin=theirs, stdout=file, stderr=stderr)
    os.close(theirs)
    try:
        seen = until_prompt(ours)
        assert "pdb: look (what to watch here)" in seen and "── kv.allocate ── step 1 ──" in seen
        os.write(ours, b"p request.id, new_pages\n")
        assert "(0, [0, 1])" in until_prompt(ours)
        os.write(ours, b"print('to', 'me')\n")
        assert "to me" in until_prompt(ours)
        os.write(ours, b"disarm()\n")
        until_prompt(ours)
        os.write(ours, b"c\n")
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        os.close(ours)
    assert (tmp_path / "out.txt").read_text() == "done after 10 steps and 1 preemptions\n"


def until_prompt(terminal: int) -> str:
    """What a terminal shows up to pdb's prompt."""
    seen, end = b"", time.monotonic() + 60
    while not seen.endswith(b"(Pdb) "):
        ready, _, _ = select.select([terminal], [], [], max(end - time.monotonic(), 0))
        assert ready, f"no prompt came, only {seen.decode()}"
        seen += os.read(terminal, 1000)
    return seen.decode()


def test_the_program_s_log() -> None:
    done = run("", MINILLM_LOG="scheduler.preempt,request.add")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "step 0   request.add        request=r0",
        "step 0   request.add        request=r1",
        "step 0   request.add        request=r2",
        "step 4   scheduler.preempt  request=r1  for_request=r1",
    ]


def test_a_wrong_pattern_ends_the_program_before_it_starts() -> None:
    done = run("", MINILLM_BREAK="kv.alocate")
    assert done.returncode == 1
    assert "ValueError: no probe is called 'kv.alocate'; did you mean kv.allocate" in done.stderr
