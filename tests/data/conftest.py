"""Makes `data_world` importable, and its caches fixtures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from data_world import Build, World, build_world


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """build(**changes): a new cache, each in its own folder."""
    made: Iterator[int] = iter(range(100))

    def make(**changes: object) -> World:
        return build_world(tmp_path / str(next(made)), **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """30 prompts × 3 seeds in 8 shards; read only."""
    return build_world(tmp_path_factory.mktemp("world") / "cache")
