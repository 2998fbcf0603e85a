"""What holds for every test: no network, one thread a worker, the same random numbers, no GPU tests without a GPU."""

import os
import sys

import hypothesis
import pytest

# Before anything imports transformers or torch: they read these once. Programs that a test starts inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = (
        "1"  # the workers are the parallelism; threads on top of them only get in each other's way
    )

# The same examples in every run: a test that fails is then one that the last change broke.
hypothesis.settings.register_profile("minillm", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("minillm")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Seed torch before each test, as pytest-randomly does `random` and numpy. A test without torch does not import it."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        if "PYTEST_XDIST_WORKER" in os.environ and torch.get_num_threads() != 1:
            torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in marked:
            item.add_marker(skip)
