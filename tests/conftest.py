"""What all tests share."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read when PyTorch is imported. Some tests have more threads than the machine has cores; they would wait in a loop.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import settings

# The modules beside this one, and the tiny pipelines, which scripts look for in tests/capture.
sys.path.insert(0, str(Path(__file__).parent / "capture"))
sys.path.insert(0, str(Path(__file__).parent))

import interpreters

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

    from probe_lab.cache import Cache

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


@pytest.fixture(scope="session")
def random_pipe(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPipeline:
    from random_pipeline import random_pipeline

    return random_pipeline(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tiny_pipe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DiffusionPipeline]:
    """The tiny random pipeline of a family, built once."""
    from tiny_pipelines import PIPELINES

    @functools.cache
    def get(name: str) -> DiffusionPipeline:
        return PIPELINES[name](tmp_path_factory.mktemp("tiny"))

    return get


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """The cache of ``planted_world`` at step 5; read only."""
    from planted_world import make_planted

    return make_planted(tmp_path_factory.mktemp("caches") / "planted", (5,))
