"""Makes the worlds and models beside it importable, here and in the spawned workers of the tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from probe_lab.config import Experiment


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cache of ``real_world``."""
    from real_world import make_cache

    folder = tmp_path_factory.mktemp("real")
    make_cache(folder)
    return folder


@pytest.fixture
def experiment(root: Path, tmp_path: Path) -> Experiment:
    """The sweep of ``real_world``."""
    from real_world import make_experiment

    return make_experiment(root, tmp_path / "runs")
