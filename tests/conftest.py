"""What every test may rely on: one thread for each worker, fixed seeds, poisoned memory, and torchvision."""

from __future__ import annotations

import contextlib
import gc
import os
import random
from collections.abc import Iterator
from types import ModuleType

os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the processes that tests start

import numpy as np
import pytest
import torch
from hypothesis import settings

from benchmarks import torchvision_cpu

torch.set_num_threads(1)
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True)
def reproducible() -> Iterator[None]:
    """Fix the seeds, and fill uninitialised memory with NaN, so that nothing passes by what it happens to hold."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """torchvision, also where its wheel was compiled for CUDA and torch is CPU-only."""
    return torchvision_cpu.load()


def pytest_configure() -> None:
    """Import torchvision here, too: pytest-xdist's controller imports the module of every warning that a worker sends
    it, and Lightning's come with torchvision.
    """
    with contextlib.suppress(ImportError):  # not in every environment
        torchvision_cpu.load()


def pytest_collection_finish() -> None:
    """Let collections of garbage pass over what has been imported by now."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none"))
