"""What all tests share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

# Read when PyTorch is imported. Some tests have more threads than the machine has cores; they would wait in a loop.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # commands.py, interpreters.py

import interpreters

# Time is measured in benchmarks/, never in a test: the machine may be busy.
settings.register_profile("probe_lab", deadline=None)
settings.load_profile("probe_lab")

# A forked child has none of the OpenMP threads that this process may have started, and would wait for them for ever.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

interpreters.warm_spawns()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """What is imported meanwhile, a million objects, stays: only what tests make is searched for garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """Extension modules look for leaks at the very end."""
    gc.unfreeze()
