"""`minillm generate`: what it prints, and how it ends."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import hf_greedy
from transformers import LlamaForCausalLM

from minillm.cli.generate import Printer
from minillm.request import CompletionOutput, RequestOutput
from minillm.text.tokenizer import Tokenizer

Run = Callable[..., Any]


def expected(tiny: tuple[Path, LlamaForCausalLM], prompt: str, count: int) -> str:
    """What Hugging Face's model says, as text."""
    tokenizer = Tokenizer(tiny[0])
    return tokenizer.decode(hf_greedy(tiny[1], tokenizer.encode(prompt), count))


@pytest.mark.parametrize("how", ["--stream", "--no-stream"])
def test_one_prompt(minillm: Run, tiny: tuple[Path, LlamaForCausalLM], how: str) -> None:
    done = minillm("generate", "hello", "--model", str(tiny[0]), "--max-tokens", "12", "--no-chat", how)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected(tiny, "hello", 12) + "\n"
    assert done.stderr.startswith("[5 prompt tokens, 12 generated in ")
    assert "; 1 of " in done.stderr, "5 + 12 - 1 tokens lie in one page of 16"


def test_a_profile_says_where_the_time_went(minillm: Run, tiny: tuple[Path, LlamaForCausalLM], tmp_path: Path) -> None:
    arguments = "hello", "--model", str(tiny[0]), "--max-tokens", "5", "--no-chat"
    done = minillm("generate", *arguments, "--profile", str(tmp_path / "deep" / "run.json.gz"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected(tiny, "hello", 5) + "\n"
    assert "prefill: 1 step of 5 tokens for 1 request," in done.stderr
    assert "decode: 4 steps of 1 token for 1 request," in done.stderr
    assert f"the trace is in {tmp_path / 'deep' / 'run.json.gz'}" in done.stderr
    assert "USDT" not in done.stderr, "what torch's profiler says of itself is nobody's business"
    assert (tmp_path / "deep" / "run.json.gz").stat().st_size > 1000
    (tmp_path / "file").write_text("")
    refused = minillm("generate", *arguments, "--profile", str(tmp_path / "file" / "run.json"))
    assert refused.returncode == 2
    assert "cannot write" in refused.stderr


def test_several_prompts_one_of_them_from_stdin(minillm: Run, tiny: tuple[Path, LlamaForCausalLM]) -> None:
    arguments = ["--model", str(tiny[0]), "--max-tokens", "6", "--set", "block_size=4", "--no-chat", "--log", "kv.free"]
    done = minillm("generate", "one", "-", *arguments, stdin="two!\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"[1] one\n{expected(tiny, 'one', 6)}\n\n[2] two!\n{expected(tiny, 'two!', 6)}\n"
    assert "pages of 4 tokens" in done.stderr
    assert done.stderr.count("kv.free") == 2


def test_log_lines_have_lines_of_their_own(start: Run, tiny: tuple[Path, LlamaForCausalLM]) -> None:
    """In a terminal the answer and the log come to one place; so they do here."""
    arguments = ["--model", str(tiny[0]), "--max-tokens", "12", "--set", "page_size=4", "--no-chat", "--log", "kv.*"]
    running = start("generate", "hello", *arguments, stderr=subprocess.STDOUT)
    lines = running.communicate(timeout=120)[0].decode("utf-8").splitlines(keepends=True)
    assert sum(line.startswith("step ") for line in lines) == "".join(lines).count("step ") > 3
    answer = [line for line in lines if not line.startswith(("step ", "[5 prompt tokens"))]
    assert len(answer) > 2, "it was interrupted at its pages' ends"
    assert "".join(line.removesuffix("\n") for line in answer) == expected(tiny, "hello", 12).replace("\n", "")


def test_a_model_with_a_template_is_asked_through_it(minillm: Run, tiny: tuple[Path, LlamaForCausalLM]) -> None:
    done = minillm("generate", "hello", "--model", str(tiny[0]), "--max-tokens", "6")
    assert done.stdout == expected(tiny, "u:hello;a:", 6) + "\n", done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["generate", "x", "--model", "no-such-model"], "model 'no-such-model': no such folder"),
        (["generate", "x", "--set", "page_sise=4"], "did you mean 'page_size'?"),
        (["generate", "x", "--set", "page_size"], "--set takes NAME=VALUE"),
        (["generate", "x", "--temperature", "-1"], "temperature is -1.0; it must be 0"),
        (["generate", "-"], "there was nothing in it"),
        (["generate", "x", "--break", "kv.alocate"], "did you mean kv.allocate?"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_the_users_errors_are_one_message(minillm: Run, arguments: list[str], message: str) -> None:
    done = minillm(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_traceback_for_who_wants_it(minillm: Run, how: str) -> None:
    option, variable = (["--traceback"], {}) if how == "option" else ([], {"MINILLM_TRACEBACK": "1"})
    done = minillm(*option, "generate", "x", "--model", "no-such-model", **variable)
    assert done.returncode != 0
    assert "Traceback" in done.stderr and "FileNotFoundError" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter there")
def test_ctrl_c_while_it_answers(start: Run, checkpoint: str) -> None:
    process = start("generate", "hello", "--model", checkpoint, "--max-tokens", "19000")
    assert process.stdout.read(1), process.stderr.read()  # it streams: text is there long before the end
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stderr.decode().strip() == "interrupted"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are another matter there")
def test_a_reader_that_leaves(start: Run, checkpoint: str) -> None:
    process = start("generate", "hello", "--model", checkpoint, "--max-tokens", "19000")
    assert process.stdout.read(1), process.stderr.read()
    process.stdout.close()  # as `| head` does
    stderr = process.stderr.read()
    assert process.wait(timeout=120) == 141
    assert stderr == b""


def test_answers_come_out_in_the_order_of_their_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    """The second is ready before the first: it waits, then comes out whole."""
    printer = Printer(["a", "b"], stream=True)
    for id, delta, finished in ((4, "1", False), (5, "x", False), (5, "y", True), (4, "2", True)):
        printer.take(RequestOutput(id, None, [0], [CompletionOutput(0, "", [], delta=delta)], finished))
        if finished and id == 5:
            assert capsys.readouterr().out == "[1] a\n1"
    assert capsys.readouterr().out == "2\n\n[2] b\nxy\n"


def test_several_answers_to_each_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(["a", "b"], stream=True, n=2)

    def take(id: int, deltas: list[str], finished: bool) -> None:
        printer.take(
            RequestOutput(id, None, [0], [CompletionOutput(i, "", [], delta=d) for i, d in enumerate(deltas)], finished)
        )

    take(4, ["1", "x"], False)
    take(6, ["3", "4"], True)
    take(4, ["2", "y"], True)
    assert capsys.readouterr().out == "[1.1] a\n12\n\n[1.2] a\nxy\n\n[2.1] b\n3\n\n[2.2] b\n4\n"


@pytest.mark.ci
def test_the_controls_reach_the_sampler(minillm: Run) -> None:
    ask = ("generate", "What is a radix cache?", "--max-tokens", "60")
    done = minillm(*ask, "--stop", " a prefix", "--stop", "zzz")
    assert (done.returncode, done.stdout) == (0, "A radix cache is\n"), done.stderr
    schema = '{"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}'
    controls = "--n 2 --temperature 1 --seed 1 --min-p 0.1 --repetition-penalty 1.1 --frequency-penalty 0.1"
    done = minillm(*ask, "--json", schema, "--presence-penalty", "0.1", *controls.split())
    assert done.returncode == 0 and done.stdout.count('{"a":') == 2, done.stderr
    for wrong, says in (("--n 2", "n is 2"), ("--min-p 2", "min_p is 2"), ("--regex (", "structured_outputs: regex")):
        done = minillm(*ask, *wrong.split())
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr


def test_an_empty_prompt_is_refused(minillm: Run, checkpoint: str) -> None:
    for prompt in ("", "  "):
        done = minillm("generate", prompt, "--model", checkpoint)
        assert (done.returncode, done.stdout) == (2, "")
        assert "prompt is empty" in done.stderr and "Traceback" not in done.stderr


def test_input_that_is_no_text_is_refused(start: Callable[..., Any], checkpoint: str) -> None:
    running = start("generate", "-", "--model", checkpoint)
    out, err = running.communicate(b"\xff\xfe", timeout=120)
    assert (running.returncode, out) == (2, b"")
    assert b"no UTF-8 text" in err and b"Traceback" not in err


def test_quitting_the_debugger_ends_though_pages_are_still_given_back(minillm: Run, checkpoint: str) -> None:
    done = minillm("generate", "hello", "--model", checkpoint, "--max-tokens", "3", "--break", "kv.*", stdin="q\n" * 9)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the program ends here") == 1


def test_the_snippet_of_the_readme_prints_answers() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    snippet = readme.partition("```python\n")[2].partition("```")[0]
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("A radix cache is a prefix cache") and "return" in done.stdout
