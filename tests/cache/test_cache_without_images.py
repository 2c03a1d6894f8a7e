"""A cache of tensors only, made with ``capture.images=false``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cache_world import World, png

from probe_lab.cache import IMAGES, Cache, CacheWriter, describe, verify
from probe_lab.cache.info import info_table
from probe_lab.errors import CacheError


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "c")


@pytest.fixture
def writer(world: World) -> CacheWriter:
    return CacheWriter(world.folder, world.manifest(extra={IMAGES: "false"}), world.samples)


@pytest.fixture
def cache(world: World, writer: CacheWriter) -> Cache:
    for shard in writer.pending():
        writer.write_shard(shard, world.arrays(shard), token_mask=world.mask(world.ids(shard)))
    return Cache(world.folder)


def test_its_tensors_are_those_of_a_cache_with_images(world: World, cache: Cache, tmp_path: Path) -> None:
    other = World(tmp_path / "with").fill()
    assert verify(world.folder) == []
    assert list((world.folder / "images").iterdir()) == []
    for key in [*cache.keys(), "token_mask"]:
        assert torch.equal(cache.read_all(key), other.read_all(key))
    for shard in cache.shards:
        name = f"shards/{shard:05d}.safetensors"
        assert (world.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_asking_for_an_image_says_what_to_do(cache: Cache) -> None:
    for read in (lambda: cache.image(0), lambda: cache.iter_images(0)):
        with pytest.raises(CacheError, match=r"holds no images .*capture\.images=true.*import scores"):
            read()


def test_info_counts_images(cache: Cache, tmp_path: Path) -> None:
    assert describe(cache.folder)["images"] == 0
    assert describe(World(tmp_path / "with").fill().folder)["images"] == 12
    assert info_table(cache.folder).row_count > 10


def test_images_that_are_given_are_refused(world: World, writer: CacheWriter) -> None:
    with pytest.raises(CacheError, match=r"was given 4 images and its cache holds none \(capture\.images=false\)"):
        writer.write_shard(0, world.arrays(0), [png(0)] * 4)
    assert writer.pending() == [0, 1, 2]


def test_verify_finds_damage_and_images_that_do_not_belong(world: World, cache: Cache) -> None:
    (world.folder / "images" / "00001.parquet").write_bytes(b"PAR1")
    shard = world.folder / "shards" / "00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    found = {problem.file: problem.message for problem in verify(world.folder)}
    assert set(found) == {"images/00001.parquet", "shards/00002.safetensors"}
    assert "without images" in found["images/00001.parquet"]


def test_it_is_not_resumed_with_images(world: World, cache: Cache) -> None:
    with pytest.raises(CacheError, match=r"capture\.images \(cache: false, experiment: default\)"):
        world.writer()
