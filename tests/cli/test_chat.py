"""`minillm chat`: through a pipe, in a terminal, and when the conversation gets too long."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from minillm.cli.chat import ChatSession
from minillm.llm import LLM
from minillm.request import SamplingParams

Run = Callable[..., Any]


def test_a_conversation_through_a_pipe(minillm: Run, checkpoint: str) -> None:
    lines = ["ab", "cd", "/nonsense", "/reset", "", "ab", "/help", "/exit", "never"]
    done = minillm("chat", "--model", checkpoint, "--system", "S", "--max-tokens", "8", stdin="\n".join(lines))
    assert done.returncode == 0, done.stderr
    llm, params = LLM(checkpoint), SamplingParams(temperature=0, max_tokens=8)
    messages = [{"role": "system", "content": "S"}]
    said = []
    for question in ("ab", "cd"):
        messages.append({"role": "user", "content": question})
        said.append(llm.chat(messages, params, use_tqdm=False)[0].outputs[0].text)
        messages.append({"role": "assistant", "content": said[-1]})
    assert done.stdout.startswith(f"{said[0]}\n{said[1]}\n{said[0]}\n/reset ")
    assert "/nonsense" in done.stderr and "forgotten" in done.stderr
    assert "never" not in done.stdout


def test_the_end_of_the_input_ends_it(minillm: Run, checkpoint: str) -> None:
    done = minillm("chat", "--model", checkpoint, "--max-tokens", "3", stdin="ab")
    assert done.returncode == 0 and done.stdout.count("\n") == 1, done.stderr


def test_a_model_without_a_template(minillm: Run, tmp_path: Any) -> None:
    from tiny import make_llama

    make_llama(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    done = minillm("chat", "--model", str(tmp_path), stdin="ab\n")
    assert done.returncode == 2 and "no chat template" in done.stderr


def test_old_turns_are_dropped_and_it_says_so(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    llm = LLM(checkpoint, max_model_len=64)
    session = ChatSession(llm, SamplingParams(temperature=0, max_tokens=10), system="sys")
    for turn in range(5):
        session.answer(f"q{turn}")
    assert "dropped the 1 oldest turn(s)" in capsys.readouterr().err
    assert session.turns[-2] == {"role": "user", "content": "q4"}
    assert 2 <= len(session.turns) < 10 and len(session.turns) % 2 == 0
    assert session.system == [{"role": "system", "content": "sys"}]
    before = list(session.turns)
    session.answer("x" * 100)
    assert "too long" in capsys.readouterr().err
    assert session.turns == [] or session.turns == before
    assert llm.engine.scheduler.manager.num_available == llm.engine.pool.num_pages


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_ctrl_c_stops_an_answer_and_ctrl_d_the_session(start: Run, checkpoint: str) -> None:
    import pty

    ours, theirs = pty.openpty()
    process = start(
        "chat", "--model", checkpoint, "--max-tokens", "19000",
        stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(theirs)
    try:
        read_until(ours, b"> ")
        press(ours, b"\x03", b"Ctrl-D or /exit ends]")  # at the prompt: nothing ends
        read_until(ours, b"> ")
        os.write(ours, b"hello\n")
        read_until(ours, b"hello\r\n")
        assert read_until(ours, b"", at_least=10)  # the answer has begun
        os.write(ours, b"\x03")
        read_until(ours, b"[stopped]")
        read_until(ours, b"> ")
        press(ours, b"\x04", b"")
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        os.close(ours)


def take_terminal() -> None:
    """In the child: a session of its own, whose terminal is stdin, so that Ctrl-C there becomes its SIGINT."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(terminal: int, mark: bytes, at_least: int = 1, timeout: float = 60) -> bytes:
    """What the terminal shows, up to ``mark``, or without one, some of it."""
    import select

    shown, until = b"", time.monotonic() + timeout
    while mark not in shown or len(shown) < at_least:
        ready, _, _ = select.select([terminal], [], [], max(until - time.monotonic(), 0))
        if not ready:
            raise TimeoutError(f"waited for {mark!r}, saw {shown!r}")
        shown += os.read(terminal, 1 if mark else 1000)
    return shown


def press(terminal: int, key: bytes, mark: bytes) -> None:
    """Press a key until that shows: in the moment in which a prompt comes up, readline may miss one."""
    for _ in range(20):
        os.write(terminal, key)
        try:
            read_until(terminal, mark, timeout=2)
            return
        except TimeoutError:
            continue
        except OSError:  # the other end is closed: the program has ended
            return
    raise AssertionError(f"{key!r} did nothing")
