"""What is to be made again, kept until it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from cache_world import World

from probe_lab.cache import write_scores
from probe_lab.cache.layout import partial_path, scores_path
from probe_lab.cache.overwriting import OVERWRITE, is_stale, overwriting
from probe_lab.errors import CacheError


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "world")
    world.fill()
    return world


def score(world: World, name: str) -> None:
    write_scores(world.folder, name, range(world.count), np.zeros(world.count), metadata={})


@contextmanager
def interrupted() -> Iterator[None]:
    """Around what ends by KeyboardInterrupt."""
    with pytest.raises(KeyboardInterrupt):
        yield


def test_what_an_interrupted_overwriting_did_not_ask_for_is_made_again(world: World) -> None:
    folder = world.folder
    paths = [scores_path(folder, name) for name in ("first", "second")]
    score(world, "second")
    with interrupted(), overwriting(folder, paths[:1], asked=True):
        raise KeyboardInterrupt
    with overwriting(folder, paths, asked=True):
        assert [is_stale(folder, path) for path in paths] == [True, True]


def test_what_was_made_before_an_interruption_is_not_made_again(world: World) -> None:
    folder = world.folder
    first, second = paths = [scores_path(folder, name) for name in ("first", "second")]
    for name in ("first", "second"):
        score(world, name)
    partial_path(folder, "second").write_bytes(b"of an ordinary scoring")
    with interrupted(), overwriting(folder, paths, asked=True):
        assert [is_stale(folder, path) for path in paths] == [True, True]
        assert not partial_path(folder, "second").exists()
        score(world, "first")
        partial_path(folder, "second").write_bytes(b"of the overwriting")
        raise KeyboardInterrupt
    for asked in (True, False):  # the same command, or one without the flag
        with interrupted(), overwriting(folder, paths, asked=asked):
            assert [is_stale(folder, path) for path in paths] == [False, True]
            assert partial_path(folder, "second").exists()
            raise KeyboardInterrupt
    with overwriting(folder, [first], asked=True):  # of which nothing is left to make
        assert [is_stale(folder, path) for path in paths] == [True, True]
    with overwriting(folder, paths, asked=False):
        assert [is_stale(folder, path) for path in paths] == [False, True]
        score(world, "second")
        assert not (folder / OVERWRITE).exists()
    with overwriting(folder, paths, asked=True):
        assert is_stale(folder, second)
    assert not (folder / OVERWRITE).exists()


def test_a_list_that_cannot_be_read_is_refused(world: World) -> None:
    (world.folder / OVERWRITE).write_bytes(b"{")
    with pytest.raises(CacheError, match=r"overwrite.json is no list .*: delete it, and run `probe-lab score`"):
        is_stale(world.folder, scores_path(world.folder, "first"))
