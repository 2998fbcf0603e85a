"""Probes that are comments in a kernel: what becomes of them, and how one stops there in pdb, in a real program."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from minillm.debug.catalogue import PACKAGE, locations
from minillm.kernels.triton.comment_probes import watched, with_probes

KERNELS = PACKAGE / "kernels"
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

PROGRAM = """
import torch
from minillm.debug.stops import arm_from_environment
from minillm.kernels.triton.load import interpreter

with interpreter() as why_not:
    assert why_not is None, why_not
    from minillm.kernels.triton.attention import Scratch, Tile, paged_decode

    arm_from_environment()
    cache, q, out = torch.randn(12, 2 * 16), torch.randn(1, 1, 16), torch.empty(1, 16)
    table, lengths, each = torch.tensor([[2, 0]]), torch.tensor([7]), torch.tensor([1])
    scratch = Scratch(*(torch.zeros(64) for _ in range(3)), torch.zeros(1, dtype=torch.int32))
    paged_decode(q, cache, table, lengths, each, 1, Tile(32, 4, 2), 4, scratch, out, 4, 1, 1.0)
    rows = torch.tensor([8, 9, 10, 11, 0, 1, 2])
    right = (cache[rows, :16] @ q[0, 0]).softmax(dim=0) @ cache[rows, 16:]
    print("right" if torch.allclose(out[0], right, atol=1e-5) else "wrong")
"""


def test_a_comment_becomes_the_call_and_no_line_moves() -> None:
    source = 'def f(x):\n    # a comment\n    # probe("kernel.scores", x=x)\n    return x\n'
    assert with_probes(source) == source.replace("# probe(", "probe.on and probe(")
    for text in ("# probe", "x = 1  # probe('a', x=x)", "# probes are comments (here)", '"# probe("'):
        assert with_probes(text) == text


def test_what_is_compiled_is_left_alone() -> None:
    kernel = object()
    assert watched(kernel) is kernel


def test_every_comment_stands_in_a_function_that_is_watched() -> None:
    """Else nobody would make it a probe."""
    for path in KERNELS.rglob("*.py"):
        decorators: list[str] = []
        last: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("@"):
                decorators.append(line)
            elif line.startswith("def "):
                last, decorators = decorators, []
            assert not line.strip().startswith("# probe(") or last[:1] == ["@watched"], f"{path.name}: {line}"


def run(folder: Path, text: str = PROGRAM, commands: str = "", **environment: str) -> tuple[str, str]:
    """A program of its own, with commands for pdb: what it says on stdout and on stderr."""
    program = folder / "program.py"
    program.write_text(text, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MINILLM_", "TRITON_"))}
    done = subprocess.run(
        [sys.executable, str(program)], env={**kept, "PYTHONIOENCODING": "utf-8", **environment},
        input=commands, capture_output=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@needs_triton
def test_pdb_stops_inside_the_kernel_and_steps_there(tmp_path: Path) -> None:
    commands = "p slots\np int(seen.handle.data.sum())\nlook\nn\nn\np keys.shape\nc\n"
    said, errors = run(tmp_path, commands=commands, MINILLM_BREAK="kernel.pages", MINILLM_BREAK_WHEN="at == 0")
    assert errors == ""
    ((_, _, stops_at),) = locations()["kernel.pages"]
    assert "── kernel.pages ── step 0 ── attention.py:" in said
    assert "   slots = i64[32]" in said and "   at = 0\n" in said and "stopped because: at == 0" in said
    assert f"attention.py({stops_at})_paged_decode()\n-> keys = cache + slots" in said
    answers = said.split("(Pdb) ")
    assert answers[1].startswith("array([ 8,  9, 10, 11,  0,  1,  2,") and answers[2] == "7\n"
    assert "✗" not in answers[3] and answers[3].count("✓") == 2 and "Error" not in answers[3]
    assert f"attention.py({stops_at + 1})" in answers[4] and f"attention.py({stops_at + 2})" in answers[5]
    assert said.endswith("right\n")


@needs_triton
def test_a_log_point_inside_the_kernel(tmp_path: Path) -> None:
    said, errors = run(tmp_path, MINILLM_LOG="kernel.program")
    assert said == "right\n"
    assert errors == "step 0   kernel.program     head=0  split=0  request=0  length=7  each=1  busy=1\n"


@needs_triton
def test_the_interpreter_says_when_it_comes_too_late(tmp_path: Path) -> None:
    said, _ = run(
        tmp_path,
        "import os, triton.language\nfrom minillm.kernels.triton.load import interpreter\n"
        "with interpreter() as why_not:\n    print(why_not)\nprint(os.environ.get('TRITON_INTERPRET'))\n",
    )
    assert said == "this program has imported Triton before, to compile with it\nNone\n"
