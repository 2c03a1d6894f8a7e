"""Scores: in sample_id order, finite, once per sample, and nothing that the cache lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cache_world import World

from probe_lab.cache import Cache, write_scores
from probe_lab.errors import ScoreError


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "c")
    world.fill()
    return world


def test_any_order_and_missing_samples(world: World) -> None:
    write_scores(world.folder, "new", np.array([7, 0, 11]), np.array([0.7, 0.0, 1.1]), metadata={})
    scores = Cache(world.folder).scores("new")
    assert scores.dtype == np.float32
    assert scores.shape == (12,)
    expected = np.full(12, np.nan, np.float32)
    expected[[7, 0, 11]] = [0.7, 0.0, 1.1]
    np.testing.assert_array_equal(scores, expected)


def test_scores_are_replaced(world: World) -> None:
    write_scores(world.folder, "sharp", [3], [9.0], metadata={"version": "2", "preprocessing": "224 × 224"})
    cache = Cache(world.folder)
    assert np.isnan(cache.scores("sharp")).sum() == 11
    assert cache.score_metadata("sharp") == {"version": "2", "preprocessing": "224 × 224"}
    assert cache.evaluators() == ["shapes_reward", "sharp"]


def test_the_file_is_a_plain_table(world: World) -> None:
    write_scores(world.folder, "new", [2, 1], [0.5, 0.25], metadata={"checkpoint_sha256": "ab"})
    table = pq.read_table(world.folder / "scores" / "new.parquet")
    assert table.to_pydict() == {"sample_id": [1, 2], "score": [0.25, 0.5]}
    assert table.schema.metadata[b"checkpoint_sha256"] == b"ab"
    assert {key for key in table.schema.metadata if not key.startswith(b"probe_lab.")} == {b"checkpoint_sha256"}
    assert str(table.schema.field("score").type) == "float"


def test_missing_evaluator_names_those_present_and_the_command(world: World) -> None:
    with pytest.raises(
        ScoreError,
        match=r"no scores of 'shapes_rewrd': did you mean 'shapes_reward'\? "
        r"\(allowed: shapes_reward, sharp\); "
        r"run `probe-lab score` with evaluators=\[shapes_rewrd\]",
    ):
        Cache(world.folder).scores("shapes_rewrd")
    with pytest.raises(ScoreError, match="no scores of 'x'"):
        Cache(world.folder).score_metadata("x")


@pytest.mark.parametrize(
    ("ids", "scores", "message"),
    [
        ([4, 5], [0.1, np.nan], "gave nan to sample 5"),
        ([4, 5], [np.inf, 0.1], "gave inf to sample 4"),
        ([4, 5], [0.1, -1e39], r"gave -1e\+39 to sample 5: a score must be a finite float32"),
        ([4, 12], [0.1, 0.1], "scores sample 12, and the cache has samples 0 to 11"),
        ([-1, 5], [0.1, 0.1], "scores sample -1"),
        ([4, 5, 4], [0.1, 0.2, 0.3], "scores sample 4 twice"),
        ([4, 5], [0.1], r"\(2,\) sample ids and \(1,\) scores"),
        ([[4, 5]], [[0.1, 0.2]], "do not match"),
    ],
)
def test_scores_that_are_refused(world: World, ids: Sequence[int], scores: Sequence[float], message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        write_scores(world.folder, "new", ids, scores, metadata={})
    assert Cache(world.folder).evaluators() == ["shapes_reward", "sharp"]


@pytest.mark.parametrize("name", ["", "../sharp", "a/b", ".hidden", "-x", "ä", "a b", "x\n"])
def test_names_that_cannot_be_files(world: World, name: str) -> None:
    with pytest.raises(ScoreError, match="cannot be a file name"):
        write_scores(world.folder, name, [0], [0.5], metadata={})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sample_id": pa.array([1, 99]), "score": pa.array([1, 1], pa.float32())}, "scores sample 99"),
        (
            {"sample_id": pa.array([1, 1]), "score": pa.array([1, 1], pa.float32())},
            r"sample 1 twice \(row 1\)",
        ),
        (
            {"sample_id": pa.array([1, 2]), "score": pa.array([1, np.nan], pa.float32())},
            "row 1: sample 2 has no finite",
        ),
        ({"sample_id": pa.array([1, 2]), "score": pa.array([1, None], pa.float32())}, "no empty cells"),
        ({"sample_id": pa.array([1, 2]), "score": pa.array([1.0, 2.0])}, "score double; needed"),
        ({"sample": pa.array([1, 2]), "score": pa.array([1, 2], pa.float32())}, "columns sample int64"),
    ],
)
def test_files_of_somebody_else(world: World, columns: dict[str, pa.Array], message: str) -> None:
    pq.write_table(pa.table(columns), world.folder / "scores" / "alien.parquet")
    with pytest.raises(ScoreError, match=message):
        Cache(world.folder).scores("alien")


def test_file_that_is_cut_short(world: World) -> None:
    path = world.folder / "scores" / "sharp.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ScoreError, match=r"cannot read .*sharp.parquet.*run `probe-lab score` again"):
        Cache(world.folder).scores("sharp")
