"""What holds for every test: no network, one thread a worker, the same random numbers, no GPU tests without a GPU."""

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import hypothesis
import pytest
from fuzz import examples

if TYPE_CHECKING:
    from tiny import Oracle

# Before anything imports transformers or torch: they read these once. Programs that a test starts inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as minillm does, which many tests import after torch
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = (
        "1"  # the workers are the parallelism; threads on top of them only get in each other's way
    )

# A program started in the background may have been told to ignore Ctrl-C, and those that it starts inherit that; tests
# press it.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run: a test that fails is then one that the last change broke.
hypothesis.settings.register_profile(
    "minillm", max_examples=examples(50), derandomize=True, deadline=None, print_blob=True
)
hypothesis.settings.load_profile("minillm")


if os.environ.get("MINILLM_BREAK") or os.environ.get("MINILLM_LOG"):
    from minillm.debug.stops import arm_from_environment

    arm_from_environment()  # an engine would do it when it is made; a test of the scheduler alone makes none


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Seed torch before each test, as pytest-randomly does `random` and numpy; a test without torch imports none."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        if "PYTEST_XDIST_WORKER" in os.environ and torch.get_num_threads() != 1:
            torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if hypothesis.is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("fuzz")
        if {"browser", "site"} & set(getattr(item, "fixturenames", ())) and "MINILLM_SITE" not in os.environ:
            item.add_marker("ci")  # which has built the site by then, and says where it lies
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in marked:
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.option.markexpr == "not ci" and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        terminalreporter.write_line(
            "Left to CI (.ci/run): all but the first of each exercise's planted mistakes, most of the builds, lessons "
            "in other widths and changed as readers change them, stops and F5 but for lesson 03's, Triton's kernels in "
            "all shapes and backends, what else takes longest (pytest -m ci), longer fuzzing (MINILLM_FUZZ=long pytest "
            "-m fuzz), the site"
        )


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> "Oracle":
    """One tiny checkpoint for all tests that need just any, and the Hugging Face model that it was written from."""
    from tiny import TEXT_VOCAB, Oracle, make_llama

    folder = tmp_path_factory.mktemp("tiny")
    return Oracle(folder, make_llama(folder, vocab_size=TEXT_VOCAB))
