"""Builds: the answer passes, what is handed out skips, and every planted mistake is told in the engine's words.

All in this process: a class of tests is made, and its methods are called, on a file in the learner's folder. What needs
Triton's interpreter is run by `test_in_the_interpreter`, in a process of its own.
"""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny import Oracle

from minillm.learn.build import Build
from minillm.learn.home import clone, my_file
from minillm.learn.mine import load_build
from minillm.learn.registry import builds
from minillm.learn.tasks import Mistake
from minillm.learn.todo import Todo

PATIENCE = 15  # seconds for one test; on a quiet machine the longest takes three
HERE = [build for build in builds().values() if build.environment.items() <= os.environ.items()]
every_build = pytest.mark.parametrize("build", HERE, ids=lambda build: build.id)


@pytest.fixture
def my(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINILLM_MY", str(tmp_path))
    return tmp_path


@cache
def checkpoint(build: Build) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"checkpoint_{build.id}", clone() / build.checkpoint)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def patience(seconds: int) -> Iterator[None]:
    """Inside, a loop without an end is an error after so long."""

    def stop(*_: Any) -> None:
        raise TimeoutError("took too long")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcomes(build: Build, text: str, oracle: Oracle, seconds: int = PATIENCE) -> Iterator[BaseException | None]:
    """What came of each of its tests, with this text in the learner's file."""
    my_file(build.number).write_text(text, encoding="utf-8")
    tests = getattr(checkpoint(build), build.test)
    with build.placed(partial(load_build, build)):
        for name in [name for name in vars(tests) if name.startswith("test_")]:
            test = getattr(tests(), name)
            needs_oracle = "oracle" in getattr(test, "__wrapped__", test).__code__.co_varnames[:2]
            try:
                with patience(seconds):
                    test(**({"oracle": oracle} if needs_oracle else {}))
                yield None
            except (Exception, pytest.fail.Exception) as error:
                yield error


@every_build
def test_the_answer_passes(build: Build, oracle: Oracle, my: Path) -> None:
    assert not [error for error in outcomes(build, build.answer, oracle, 6 * PATIENCE) if error]


@every_build
def test_every_test_of_what_is_handed_out_skips(build: Build, oracle: Oracle, my: Path) -> None:
    found = list(outcomes(build, build.contract, oracle))
    assert found and all(isinstance(error, Todo) and error.first().task == build.id for error in found), found


@pytest.mark.parametrize("build", builds().values(), ids=lambda build: build.id)
def test_a_build_is_whole(build: Build) -> None:
    """The target stands in the contract; three hints, five mistakes; the answer needs nothing beyond the contract."""
    assert "{" not in build.contract.split('"""')[1].replace("{}", "")
    assert all(str(value) in build.contract for value in build.target_numbers.values() if value > 1)
    assert len(build.hints) == 3 and len(build.mistakes) >= 5
    assert any("took too long" in one.says for one in build.mistakes)
    assert any(one.says.startswith("all is right, but") for one in build.mistakes)
    assert (clone() / build.checkpoint).exists() and build.id in (clone() / build.chapter).read_text(encoding="utf-8")

    def imported(text: str) -> set[str]:
        found = re.findall(r"^(?:from (minillm\S*) )?import (.+?)(?:  #.*)?$", text, flags=re.MULTILINE)
        return {f"{home}.{name}" for home, names in found for name in names.split(", ") if home or "." in name}

    assert imported(build.answer) <= imported(build.contract)


@pytest.mark.ci
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_in_the_interpreter() -> None:
    """The tests of this file for builds that need Triton's interpreter, which must be asked for beforehand."""
    command = [sys.executable, "-m", "pytest", __file__, "-m", "", "-k", "build2", "--tb=short", "-p", "no:xdist"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env |= {**builds()["build2"].environment, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=clone(), env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 10, done.stdout


def planted() -> Iterator[Any]:
    """Every mistake; all but the first two of each build are left to CI."""
    for build in HERE:
        for number, mistake in enumerate(build.mistakes):
            marks = [pytest.mark.ci] if number > 1 else []
            yield pytest.param(build, mistake, id=f"{build.id}-{mistake.name}", marks=marks)


@pytest.mark.parametrize(("build", "mistake"), list(planted()))
def test_a_planted_mistake_is_caught(build: Build, mistake: Mistake, oracle: Oracle, my: Path) -> None:
    assert build.answer.count(mistake.old) >= 1, f"the answer has no {mistake.old!r} any more"
    wrong = build.answer.replace(mistake.old, mistake.new)
    for error in outcomes(build, wrong, oracle):
        if error is not None:
            said = f"{type(error).__name__}: {error}"
            assert not isinstance(error, Todo | NameError | SyntaxError), said
            assert mistake.says in said
            return
    pytest.fail(f"no test of {build.id} notices: {mistake.name}")
