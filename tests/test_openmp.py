"""How torch's threads wait: what its OpenMP says that it has read, by every way in; and who is told that it is late."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minillm.debug.launch import read_jsonc
from minillm.openmp import gomp_is_loaded

ROOT = Path(__file__).resolve().parents[1]
LESSON = ROOT / "lessons" / "09_cuda_graphs.py"  # torch is the first that it imports by itself
ENGINE = "from minillm import LLM\nfor _ in range(2): LLM('nano-llama', num_pages=8, max_model_len=64)"
TOLD = "torch was imported before minillm"

needs_gomp = pytest.mark.skipif(not gomp_is_loaded(), reason="this torch does not use GNU's OpenMP")


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, as a person starts it: nothing of the variables in question is set, unless it is said."""
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    kept |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, encoding="utf-8", timeout=100)
    assert done.returncode == 0, done.stderr
    return done


def spins(code: str, **variables: str) -> str:
    """What libgomp says of GOMP_SPINCOUNT when it is loaded."""
    done = run(code, OMP_DISPLAY_ENV="verbose", **variables)
    found = re.search(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr)
    assert found, done.stderr
    return found[1]


@needs_gomp
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(f"import runpy, sys; sys.argv[1:] = []; runpy.run_path({str(LESSON)!r})", id="lesson"),
        pytest.param(
            "import runpy, sys; sys.argv = ['', 'generate', 'A', '--max-tokens=1']\n"
            "try: runpy.run_module('minillm', run_name='__main__')\nexcept SystemExit as end: assert not end.code",
            id="command",
            marks=pytest.mark.ci,
        ),
        pytest.param("import minillm, torch", id="package", marks=pytest.mark.ci),
    ],
)
def test_the_threads_of_what_imports_minillm_first_spin_briefly(code: str) -> None:
    assert spins(code) == "1000"


@needs_gomp
@pytest.mark.ci
def test_whoever_has_set_it_keeps_theirs() -> None:
    assert spins("import minillm, torch", GOMP_SPINCOUNT="77") == "77"


@needs_gomp
def test_whoever_imported_torch_first_is_told_once() -> None:
    told = run(f"import torch\n{ENGINE}").stderr
    assert told.count(TOLD) == 1 and "Import minillm before torch" in told and "GOMP_SPINCOUNT=1000" in told


@pytest.mark.ci
@pytest.mark.parametrize(
    ("first", "variables"),
    [
        ("import minillm, torch", {}),
        ("import torch", {"GOMP_SPINCOUNT": "1000"}),
        ("import torch", {"OMP_WAIT_POLICY": "active"}),
        ("import torch", {"OMP_NUM_THREADS": "1"}),
    ],
)
def test_nobody_else_is_told(first: str, variables: dict[str, str]) -> None:
    assert TOLD not in run(f"{first}\n{ENGINE}", **variables).stderr


def test_the_editor_and_the_start_script_say_the_same_number() -> None:
    settings = read_jsonc((ROOT / ".vscode" / "settings.json").read_text(encoding="utf-8"))
    assert settings["terminal.integrated.env.linux"] == {"GOMP_SPINCOUNT": "1000"}
    for file in ("scripts/start.py", "minillm/openmp.py", "tests/conftest.py"):
        assert 'environ.setdefault("GOMP_SPINCOUNT", "1000")' in (ROOT / file).read_text(encoding="utf-8")
