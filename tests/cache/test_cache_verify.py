"""Damage of every kind: verify names the file, and the row where there is one."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cache_world import World, png
from safetensors.torch import load_file, save_file

from probe_lab.cache import Cache, Problem, verify, write_scores
from probe_lab.cache.files import sha256_of
from probe_lab.cache.layout import Sidecar
from probe_lab.cache.tensors import OpenFile
from probe_lab.cache.text_table import write_text
from probe_lab.errors import CacheError, ScoreError

SHARD = "shards/00001.safetensors"
IMAGES = "images/00001.parquet"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "c")
    world.fill()
    assert verify(world.folder) == []
    return world


def _one(world: World) -> Problem:
    problems = verify(world.folder)
    assert len(problems) == 1, problems
    return problems[0]


def _flip(path: Path, offset: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(bytes(data))


def _row_of(path: Path, offset: int) -> int | None:
    header = OpenFile(str(path)).header
    for entry in header.entries.values():
        if entry.start <= offset < entry.start + entry.size:
            return (offset - entry.start) // entry.row_bytes
    return None


def test_flipped_bit_of_a_shard(world: World) -> None:
    path, chance = world.folder / SHARD, random.Random(0)
    whole = path.read_bytes()
    start = OpenFile(str(path)).header.data_start
    rows = set()
    for offset in [chance.randrange(len(whole)) for _ in range(30)] + [start, len(whole) - 1]:
        row = _row_of(path, offset)
        _flip(path, offset, chance.randrange(8))
        problem = _one(world)
        assert problem.file == SHARD
        assert "sha256 differs" in problem.message
        if row is not None:
            assert problem.row == row, offset
            assert f"(rows {row}, samples {4 + row})" in problem.message
            rows.add(row)
        path.write_bytes(whole)
    assert rows == {0, 1, 2, 3}
    for offset in range(0, start, 7):  # no damage of the header goes unseen or raises anything else
        _flip(path, offset, chance.randrange(8))
        assert _one(world).file == SHARD
        path.write_bytes(whole)


def test_truncated_shard(world: World) -> None:
    path, chance = world.folder / SHARD, random.Random(1)
    whole = path.read_bytes()
    last = max(OpenFile(str(path)).header.entries.values(), key=lambda entry: entry.start)
    for size in [
        0,
        5,
        40,
        len(whole) - 1,
        len(whole) - last.row_bytes - 1,
        *chance.choices(range(len(whole)), k=10),
    ]:
        path.write_bytes(whole[:size])
        problem = _one(world)
        assert problem.file == SHARD
        assert f"truncated: {size} bytes, {len(whole)} were written" in problem.message
        with pytest.raises(CacheError, match=r"00001\.safetensors is damaged"):
            Cache(world.folder).read("5/x0", 1)
        if size >= last.start:
            assert problem.row == (size - last.start) // last.row_bytes
    path.write_bytes(whole + b"x")
    assert "grown" in _one(world).message


def test_truncated_zeros_are_damage_too(tmp_path: Path) -> None:
    world = World(tmp_path / "c")
    arrays = {key: torch.zeros_like(array) for key, array in world.arrays(0).items()}
    for shard in (0, 1, 2):
        world.writer().write_shard(shard, arrays, [png(sample) for sample in world.ids(shard)])
    path = world.folder / SHARD
    os.truncate(path, path.stat().st_size - 1)
    assert _one(world).row == 3


def test_flipped_bit_of_the_images(world: World) -> None:
    path, chance = world.folder / IMAGES, random.Random(2)
    whole = path.read_bytes()
    for offset in chance.choices(range(len(whole)), k=30):
        _flip(path, offset, chance.randrange(8))
        problems = verify(world.folder)
        assert problems[0].file == IMAGES
        assert "sha256 differs" in problems[0].message
        path.write_bytes(whole)
    offset = whole.index(png(6)) + 45  # inside the pixels of row 2
    _flip(path, offset, 0)
    assert [(problem.file, problem.row) for problem in verify(world.folder)] == [(IMAGES, None), (IMAGES, 2)]
    path.write_bytes(whole[:-100])
    assert "truncated" in _one(world).message


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("samples.parquet", lambda folder: Cache(folder).samples),
        ("scores/sharp.parquet", lambda folder: Cache(folder).scores("sharp").tolist()),
    ],
)
def test_flipped_bit_of_a_table(world: World, name: str, load: Callable[[Path], object]) -> None:
    path, chance = world.folder / name, random.Random(3)
    whole, expected = path.read_bytes(), str(load(world.folder))
    seen = 0
    for offset in range(0, len(whole), 11):
        _flip(path, offset, chance.randrange(8))
        problems = verify(world.folder)
        try:
            loaded = str(load(world.folder))
        except (CacheError, ScoreError):
            assert name in [problem.file for problem in problems]
            seen += 1
        else:
            assert loaded == expected or problems, f"byte {offset} changes what is read, and nobody sees it"
        path.write_bytes(whole)
    assert seen > 10


def test_flipped_bit_of_the_text(world: World) -> None:
    path, chance = world.folder / "text" / "clip.safetensors", random.Random(4)
    whole = path.read_bytes()
    expected = Cache(world.folder).text("clip")["embedding"]
    for offset in [*range(0, len(whole), 5), len(whole) - 1]:
        _flip(path, offset, chance.randrange(8))
        if not verify(world.folder):  # a bit of the JSON that says nothing, such as the name of the framework
            assert Cache(world.folder).text("clip").keys() == {"embedding"}
            assert torch.equal(Cache(world.folder).text("clip")["embedding"], expected)
            assert offset < len(whole) - expected.nbytes
        path.write_bytes(whole)


def test_missing_files(world: World) -> None:
    (world.folder / SHARD).unlink()
    assert (_one(world).file, _one(world).message[:19]) == (SHARD, "the file is missing")
    (world.folder / IMAGES).unlink()
    assert [problem.file for problem in verify(world.folder)] == [SHARD, IMAGES]
    (world.folder / "shards" / "00001.json").unlink()
    assert "shard 1 is missing: `probe-lab generate` resumes" in _one(world).message


def test_shard_without_its_sidecar(world: World) -> None:
    (world.folder / "shards" / "00001.json").unlink()
    assert _one(world) == Problem(SHARD, None, "shard 1 was never completed: `probe-lab generate` resumes there")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"rows": 4}', '{"keys": 3, "row_crc32": []}'])
def test_broken_sidecar(world: World, content: str) -> None:
    (world.folder / "shards" / "00001.json").write_text(content)
    assert _one(world).file == "shards/00001.json"
    assert "is not a readable sidecar" in _one(world).message


def test_shard_of_nobody(world: World) -> None:
    for name in ("shards/00001.safetensors", "shards/00001.json", "images/00001.parquet"):
        path = world.folder / name
        path.with_name(path.name.replace("00001", "00007")).write_bytes(path.read_bytes())
    assert _one(world) == Problem("shards/00007.safetensors", None, "no sample belongs to this shard: delete it")


def test_missing_scores_name_evaluator_and_sample(world: World) -> None:
    path = world.folder / "scores" / "sharp.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pa.compute.invert(pa.compute.is_in(table["sample_id"], pa.array([3, 7, 8])))), path)
    problems = verify(world.folder)
    assert [(problem.file, problem.row) for problem in problems] == [
        ("scores/sharp.parquet", 3),
        ("scores/sharp.parquet", 7),
    ]
    assert problems[0].message.startswith("sample 3 has no score: run `probe-lab score`")
    assert problems[1].message.startswith("samples 7 to 8 have no score")
    assert str(problems[0]).startswith("scores/sharp.parquet row 3: sample 3")


def test_scores_of_samples_that_are_not_generated_yet_are_not_missed(tmp_path: Path) -> None:
    world = World(tmp_path / "c")
    world.fill()
    for name in ("shards/00002.json", "shards/00002.safetensors", "images/00002.parquet"):
        (world.folder / name).unlink()
    ids = np.arange(8)
    write_scores(world.folder, "sharp", ids, ids / 7, metadata={"version": "1"})
    assert [problem.file for problem in verify(world.folder)] == ["shards/00002.safetensors"]


def test_bad_rows_of_scores(world: World) -> None:
    schema = pq.read_schema(world.folder / "scores" / "sharp.parquet")
    ids, values = [*range(12), 4, 99], [float("nan"), *[0.5] * 13]
    table = pa.table([ids, pa.array(values, pa.float32())], schema=schema)
    pq.write_table(table, world.folder / "scores" / "sharp.parquet")
    found = [(problem.row, problem.message) for problem in verify(world.folder)]
    assert found == [
        (12, "sample 4 is scored twice"),
        (0, "the score of sample 0 is nan"),
        (13, "sample 99 is not in the cache"),
    ]


def test_duplicate_samples(world: World) -> None:
    path = world.folder / "samples.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(5, 1)]), path)
    found = [(problem.file, problem.row, problem.message) for problem in verify(world.folder)]
    assert found[0] == ("samples.parquet", 12, "sample_id 5 is there twice")
    assert found[1] == ("samples.parquet", 12, "prompt 'a red circle, 2' with seed 1005 is there twice")
    assert found[2] == ("samples.parquet", None, "it has 13 rows, the manifest counts 12")
    assert len(found) == 3


def test_duplicate_prompt_and_seed(world: World) -> None:
    path = world.folder / "samples.parquet"
    table = pq.read_table(path)
    seeds = table.column("seed").to_pylist()
    seeds[7] = seeds[6]
    pq.write_table(table.set_column(3, "seed", pa.array(seeds)), path)
    assert _one(world) == Problem("samples.parquet", 7, "prompt 'a red circle, 3' with seed 1006 is there twice")


def test_shapes_and_keys_that_the_manifest_does_not_have(world: World) -> None:
    manifest = world.manifest(taps={"x0": (4, 2, 1), "up.0/attention": (3, 4, 4), "late/attention": (1, 1, 1)})
    manifest.save(world.folder)
    messages = [problem.message for problem in verify(world.folder) if problem.file == SHARD]
    assert "array '5/x0' is (4, 4, 2, 2) torch.float16, the manifest promises (4, 4, 2, 1) float16" in messages
    assert any("lacks the array '1/late/attention'" in message for message in messages)
    assert "array '1/mid/activation' is not in the manifest" in messages
    replace(world.manifest(), cache_dtype="float32").save(world.folder)
    assert any("torch.float16, the manifest promises (4, 4, 2, 2) float32" in str(p) for p in verify(world.folder))


def _resign(world: World) -> None:
    """A sidecar that fits the changed files, as an edit of the cache by other tools would leave it."""
    path = world.folder / "shards" / "00001.json"
    shard, images = world.folder / SHARD, world.folder / IMAGES
    sidecar = replace(
        Sidecar.load(path),
        bytes=shard.stat().st_size,
        sha256=sha256_of(shard),
        images_bytes=images.stat().st_size,
        images_sha256=sha256_of(images),
    )
    path.write_bytes(sidecar.to_json())


def test_images_that_do_not_decode_or_have_another_size(world: World) -> None:
    path = world.folder / IMAGES
    table = pq.read_table(path)
    images = table.column("image").to_pylist()
    images[1]["bytes"] = images[1]["bytes"][:30]
    images[3]["bytes"] = png(7, (9, 6))
    ids = pa.array([4, 5, 60, 7])
    pq.write_table(pa.table([ids, pa.array(images, table.schema.field("image").type)], schema=table.schema), path)
    _resign(world)
    found = [(problem.file, problem.row, problem.message) for problem in verify(world.folder)]
    assert found[0][:2] == (IMAGES, 1)
    assert found[0][2].startswith("image of sample 5 does not decode (")
    assert found[1:] == [
        (IMAGES, 2, "it has sample 60 where 6 belongs"),
        (IMAGES, 3, "image of sample 7 is 9x6 pixels, the manifest says 8x6"),
    ]


def test_fewer_images_than_samples(world: World) -> None:
    path = world.folder / IMAGES
    pq.write_table(pq.read_table(path).slice(0, 3), path)
    _resign(world)
    assert _one(world).message.startswith("it has 3 images for 4 samples")


def test_fewer_rows_than_samples(world: World) -> None:
    path = world.folder / SHARD
    save_file({key: array[:3].contiguous() for key, array in load_file(path).items()}, path)
    _resign(world)
    messages = [problem.message for problem in verify(world.folder)]
    assert any("(3, 4, 2, 2) torch.float16, the manifest promises (4, 4, 2, 2)" in message for message in messages)
    with pytest.raises(CacheError, match=r"has 3 rows of '5/x0' where samples.parquet counts 4"):
        Cache(world.folder).read("5/x0", 1)


def test_text_with_other_rows(world: World) -> None:
    write_text(world.folder, "clip", {"embedding": torch.ones(5, 2)}, prompts=5)
    messages = [problem.message for problem in verify(world.folder)]
    assert any("embedding has the shape (5, 2) where 6 rows belong" in message for message in messages)


def test_manifest_is_what_the_rest_is_compared_with(world: World) -> None:
    path = world.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"count": 14}))
    assert _one(world) == Problem("samples.parquet", None, "it has 12 rows, the manifest counts 14")
