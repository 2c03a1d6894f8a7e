"""What is written is what is read, by this reader and by the stock ones."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from cache_world import TAPS, World, png
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from probe_lab.cache import Cache, describe, verify, write_scores
from probe_lab.cache.layout import complete_shards
from probe_lab.cache.tensors import OpenFile


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.integers(1, 5),
    seeds=st.integers(1, 3),
    extra=st.integers(0, 4),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)),
    cache_dtype=st.sampled_from(["float16", "float32", "bfloat16"]),
    given_dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    start=st.integers(-4, 8),
    stop=st.integers(-4, 8),
)
def test_any_shape_and_dtype(
    prompts: int,
    seeds: int,
    extra: int,
    shape: tuple[int, int, int],
    cache_dtype: str,
    given_dtype: torch.dtype,
    start: int,
    stop: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(
            Path(folder) / "c",
            prompts,
            seeds,
            seeds + extra,
            (3,),
            {"x0": shape, "b/attention": (1, 1, 2)},
            cache_dtype,
        )
        writer = world.writer()
        stored: dict[int, dict[str, torch.Tensor]] = {}
        for shard in writer.pending():
            arrays = {key: array.to(given_dtype) for key, array in world.arrays(shard).items()}
            stored[shard] = {key: array.to(getattr(torch, cache_dtype)) for key, array in arrays.items()}
            writer.write_shard(shard, arrays, [png(sample) for sample in world.ids(shard)])
        assert verify(world.folder) == []
        cache = Cache(world.folder)
        keys = cache.keys()
        assert keys == ["3/b/attention", "3/x0"]
        for key in keys:
            for shard, arrays in stored.items():
                assert _same(cache.read(key, shard), arrays[key])
                assert _same(cache.read(key, shard, slice(start, stop)), arrays[key][start:stop])
            assert _same(cache.read_all(key), torch.cat([arrays[key] for arrays in stored.values()]))


def _same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.dtype == expected.dtype and found.is_contiguous() and torch.equal(found, expected)


def test_stock_safetensors_reads_our_shards(tmp_path: Path) -> None:
    cache = World(tmp_path / "c").fill()
    for shard in cache.shards:
        with safe_open(tmp_path / "c" / "shards" / f"{shard:05d}.safetensors", "pt") as file:
            keys = file.keys()
            assert set(keys) == {*cache.keys(), "token_mask"}
            for key in keys:
                assert _same(cache.read(key, shard), file.get_tensor(key))
                assert _same(cache.read(key, shard, slice(1, 3)), file.get_slice(key)[1:3])


def test_we_read_what_stock_safetensors_writes(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 2, dtype=torch.float64),
        "b": torch.tensor([[True], [False]]),
        "empty": torch.zeros(0, 4),
        "long": torch.arange(5),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"who": "ö"})
    file = OpenFile(str(tmp_path / "x.safetensors"))
    assert file.header.metadata["who"] == "ö"
    for name, entry in file.header.entries.items():
        out = torch.empty(entry.shape, dtype=entry.dtype)
        file.read_into(out, entry.start)
        assert _same(out, tensors[name])


def test_every_array_is_aligned_to_its_items(tmp_path: Path) -> None:
    World(tmp_path / "c", seeds=3, shard_size=3, taps={"x0": (1, 1, 1), "a/attention": (1, 3, 1)}).fill()
    header = OpenFile(str(tmp_path / "c" / "shards" / "00000.safetensors")).header
    assert all(entry.start % entry.dtype.itemsize == 0 for entry in header.entries.values())
    assert header.data_start % 8 == 0


def test_samples_images_mask_text_and_scores(tmp_path: Path) -> None:
    world = World(tmp_path / "c")
    cache = world.fill()
    assert cache.samples.equals(world.writer().samples)
    assert list(cache.samples.columns) == [
        "sample_id",
        "prompt_id",
        "prompt",
        "seed",
        "split",
        "shard",
        "row",
    ]
    assert cache.samples["prompt"].tolist() == world.samples["prompt"].tolist()
    assert [cache.image(sample) for sample in range(world.count)] == [png(value) for value in range(world.count)]
    assert list(cache.iter_images(2)) == [(sample, png(sample)) for sample in world.ids(2)]
    mask = cache.read("token_mask", 1)
    assert mask.dtype == torch.uint8
    assert torch.equal(mask.bool(), world.mask(world.ids(1)))
    assert torch.equal(cache.text("clip")["embedding"], torch.arange(18.0).reshape(6, 3))
    assert cache.evaluators() == ["shapes_reward", "sharp"]
    np.testing.assert_array_equal(cache.scores("sharp"), (np.arange(12) / 7).astype(np.float32))
    assert cache.score_metadata("sharp") == {"version": "1"}


def test_text_keeps_its_dtypes(tmp_path: Path) -> None:
    world = World(tmp_path / "c")
    tensors = {
        "embedding": torch.randn(6, 3).bfloat16(),
        "tokens": torch.randn(6, 2, 3).half(),
        "token_mask": torch.rand(6, 2) > 0.5,
    }
    world.writer().write_text("t5", tensors)
    found = Cache(world.folder).text("t5")
    assert found.keys() == tensors.keys()
    assert all(_same(found[name], tensors[name]) for name in tensors)


def test_dataset_viewers_see_an_image_column(tmp_path: Path) -> None:
    World(tmp_path / "c").fill()
    table = pq.read_table(tmp_path / "c" / "images" / "00001.parquet")
    assert str(table.schema.field("image").type) == "struct<bytes: binary, path: string>"
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"sample_id": {"dtype": "int64", "_type": "Value"}, "image": {"_type": "Image"}}
    assert table.column("sample_id").to_pylist() == [4, 5, 6, 7]
    assert table.column("image")[1].as_py() == {"bytes": png(5), "path": "00000005.png"}


def test_one_image_of_a_long_shard(tmp_path: Path) -> None:
    world = World(tmp_path / "c", prompts=90, seeds=1, shard_size=90, steps=(1,), taps={"x0": (1, 1, 1)})
    cache = world.fill()
    assert [cache.image(sample) for sample in (0, 31, 32, 63, 64, 89)] == [
        png(sample) for sample in (0, 31, 32, 63, 64, 89)
    ]


def test_a_cache_that_is_half_full(tmp_path: Path) -> None:
    world = World(tmp_path / "c")
    writer = world.writer()
    for shard in (0, 2):
        world.write(writer, shard)
    cache = Cache(world.folder)
    assert cache.shards == [0, 2] == complete_shards(world.folder)
    assert cache.complete_samples["sample_id"].tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    expected = world.array("5/x0", cache.complete_samples["sample_id"].tolist()).half()
    assert torch.equal(cache.read_all("5/x0"), expected)


def test_describe(tmp_path: Path) -> None:
    world = World(tmp_path / "c")
    world.fill()
    write_scores(world.folder, "half", [1, 2], [0.5, 0.25], metadata={})
    found = describe(world.folder)
    assert json.loads(json.dumps(found)) == found
    assert found["samples"] == found["complete_samples"] == 12
    assert found["shards"] == found["complete_shards"] == 3
    assert found["bytes_per_key"]["5/up.0/attention"] == 12 * 48 * 2  # type: ignore[index]
    assert found["evaluators"] == {"half": 2, "shapes_reward": 12, "sharp": 12}
    assert found["splits"] == {"train": 4, "val": 4, "test": 4}
    assert found["taps"] == {tap: list(shape) for tap, shape in TAPS.items()}
    assert found["bytes"] == sum(path.stat().st_size for path in world.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("shard_size", [2, 3, 7])
def test_shards_hold_whole_prompts(tmp_path: Path, shard_size: int) -> None:
    world = World(tmp_path / "c", shard_size=shard_size)
    sizes = world.samples.groupby("shard").size().tolist()
    assert sizes == {2: [2] * 6, 3: [2] * 6, 7: [6, 6]}[shard_size]
    world.fill()
    assert verify(world.folder) == []
