"""manifest.json and samples.parquet as files that a person or another version wrote."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cache_world import World

from probe_lab.cache import FORMAT_VERSION, Cache, Manifest, describe, verify, write_scores
from probe_lab.errors import CacheError


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "c")
    world.fill()
    return world


def _edit(world: World, **changes: object) -> None:
    path = world.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(tmp_path: Path) -> None:
    manifest = World(tmp_path).manifest(extra={"normalize": "text"}, guidance=7)
    manifest.save(tmp_path)
    loaded = Manifest.load(tmp_path)
    assert loaded == manifest
    assert loaded.taps["x0"] == (4, 2, 2)
    assert loaded.difference(manifest) == []
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_the_file_is_for_people_too(world: World) -> None:
    text = (world.folder / "manifest.json").read_text()
    values = json.loads(text)
    assert list(values) == sorted(values)
    assert '\n  "backbone": "tiny-sd",\n' in text
    assert values["taps"]["mid/activation"] == [2, 2, 3]
    assert values["format_version"] == FORMAT_VERSION == 1


def test_difference_and_keys(world: World) -> None:
    manifest = world.manifest()
    assert manifest.difference(world.manifest(seeds=3, taps={}, code_version="x")) == [
        "taps",
        "seeds",
        "code_version",
    ]
    assert manifest.keys()[:3] == ["1/mid/activation", "1/up.0/attention", "1/x0"]
    assert manifest.keys() == replace(manifest, taps=dict(reversed(manifest.taps.items()))).keys()
    assert manifest.shape("5/up.0/attention") == (3, 4, 4)
    with pytest.raises(FrozenInstanceError):
        manifest.seeds = 3  # type: ignore[misc]


def test_another_format_version(world: World) -> None:
    _edit(world, format_version=2, something_new=True)
    message = "has format version 2, this probe_lab reads 1: generate the cache again"
    for use in (Cache, Manifest.load, describe, lambda folder: world.writer()):
        with pytest.raises(CacheError, match=message):
            use(world.folder)
    with pytest.raises(CacheError, match=message):
        write_scores(world.folder, "sharp", [0], [1.0], metadata={})
    problems = verify(world.folder)
    assert [(problem.file, problem.row) for problem in problems] == [("manifest.json", None)]
    assert message in problems[0].message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("\udcff", "not valid JSON"),
        ("[]", "no format_version"),
        ('{"name": "x"}', "no format_version"),
        ('{"format_version": 1}', "lacks or has too much: backbone, cache_dtype"),
    ],
)
def test_broken_manifest(world: World, content: str, message: str) -> None:
    (world.folder / "manifest.json").write_text(content, errors="surrogateescape")
    with pytest.raises(CacheError, match=message):
        Cache(world.folder)
    assert [problem.file for problem in verify(world.folder)] == ["manifest.json"]


@pytest.mark.parametrize(
    "changes",
    [
        {"count": "12"},
        {"count": True},
        {"seeds": 2.0},
        {"name": None},
        {"guidance": "high"},
        {"taps": [1]},
        {"taps": {"x0": 3}},
        {"captured_steps": 5},
        {"captured_steps": ["five"]},
        {"extra": []},
    ],
)
def test_manifest_with_a_value_of_another_type(world: World, changes: dict[str, object]) -> None:
    _edit(world, **changes)
    with pytest.raises(CacheError, match=r"manifest.json has a value of another type \(.+\): generate"):
        Manifest.load(world.folder)


def test_folder_that_is_no_cache(tmp_path: Path) -> None:
    for use in (Cache, describe):
        with pytest.raises(CacheError, match=r"nothing is not a cache .*run `probe-lab generate`"):
            use(tmp_path / "nothing")
    assert [problem.file for problem in verify(tmp_path / "nothing")] == ["manifest.json"]


def test_samples_of_another_type_or_missing(world: World) -> None:
    path = world.folder / "samples.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(3, "seed", table.column("seed").cast(pa.float64())), path)
    with pytest.raises(CacheError, match=r"seed double.*needed: .*seed int64"):
        Cache(world.folder)
    pq.write_table(table.drop_columns("row"), path)
    with pytest.raises(CacheError, match=r"samples.parquet has the columns sample_id int64.*needed"):
        Cache(world.folder)
    path.write_bytes(b"PAR1")
    with pytest.raises(CacheError, match=r"cannot read .*samples.parquet"):
        Cache(world.folder)
    path.unlink()
    with pytest.raises(CacheError, match=r"cannot read .*samples.parquet"):
        world.writer()


def test_samples_that_pandas_wrote_are_fine(world: World) -> None:
    world.samples.to_parquet(world.folder / "samples.parquet")
    assert Cache(world.folder).samples.equals(world.writer().samples)
    assert verify(world.folder) == []


def test_samples_with_a_duplicate(world: World) -> None:
    path = world.folder / "samples.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(5, 1)]), path)
    with pytest.raises(
        CacheError, match=r"samples.parquet row 12: sample_id 5 is there twice; `probe-lab cache verify`"
    ):
        Cache(world.folder)


def test_fewer_samples_than_the_manifest_counts(world: World) -> None:
    path = world.folder / "samples.parquet"
    pq.write_table(pq.read_table(path).slice(0, 8), path)
    with pytest.raises(CacheError, match="has 8 rows and the manifest counts 12"):
        Cache(world.folder)
