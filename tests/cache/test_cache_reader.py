"""The reader: its errors, its open files, its memory, and its life in other processes and threads."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from cache_world import ShardDataset, World
from safetensors import safe_open
from torch.utils.data import DataLoader

from probe_lab.cache import Cache, reader
from probe_lab.errors import CacheError


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "c")


def test_unknown_key_names_the_nearest(world: World) -> None:
    cache = world.fill()
    with pytest.raises(CacheError, match=r"no array '5/up.0/attenton': did you mean '5/up.0/attention'\?.*1/x0"):
        cache.read("5/up.0/attenton", 0)
    with pytest.raises(CacheError, match="no array '5/latent'"):
        cache.read_all("5/latent")


def test_missing_step_says_which_are_there(world: World) -> None:
    cache = world.fill()
    for read in (cache.read_all, lambda key: cache.read(key, 0)):
        with pytest.raises(CacheError, match=r"no step 3 \(it has 1, 5\).*capture.steps.*generate"):
            read("3/x0")


def test_token_mask_that_was_not_stored(world: World) -> None:
    writer = world.writer()
    writer.write_shard(0, world.arrays(0), [b"\x89PNG\r\n\x1a\n"] * 4)
    with pytest.raises(CacheError, match="no array 'token_mask'"):
        Cache(world.folder).read("token_mask", 0)


def test_shard_that_is_not_complete(world: World) -> None:
    world.write(world.writer(), 0)
    cache = Cache(world.folder)
    for read in (lambda: cache.read("5/x0", 1), lambda: cache.image(5), lambda: cache.iter_images(1)):
        with pytest.raises(CacheError, match=r"shard 1 .* is not complete"):
            read()


def test_no_shard_at_all(world: World) -> None:
    world.writer()
    with pytest.raises(CacheError, match="no complete shard"):
        Cache(world.folder).read_all("5/x0")


def test_samples_and_text_that_are_not_there(world: World) -> None:
    cache = world.fill()
    for sample in (-1, 12):
        with pytest.raises(CacheError, match=f"samples 0 to 11, not {sample}"):
            cache.image(sample)
    with pytest.raises(CacheError, match="no text of 'clap': did you mean 'clip'"):
        cache.text("clap")


def test_out_is_filled_and_returned(world: World) -> None:
    cache = world.fill()
    out = torch.full((4, 4, 2, 2), -1.0, dtype=torch.float16)
    found = cache.read("5/x0", 1, slice(1, 3), out=out[1:3])
    assert found.data_ptr() == out[1:3].data_ptr()
    assert torch.equal(out[1:3], cache.read("5/x0", 1)[1:3])
    assert (out[[0, 3]] == -1).all()


@pytest.mark.parametrize(
    "out",
    [
        torch.empty(3, 4, 2, 2, dtype=torch.float16),
        torch.empty(4, 4, 2, 2, dtype=torch.float32),
        torch.empty(4, 2, 2, 4, dtype=torch.float16).permute(0, 3, 1, 2),
    ],
)
def test_out_that_does_not_fit(world: World, out: torch.Tensor) -> None:
    with pytest.raises(CacheError, match=r"\(4, 4, 2, 2\) torch.float16"):
        world.fill().read("5/x0", 0, out=out)


def test_rows_with_a_step_are_refused(world: World) -> None:
    with pytest.raises(CacheError, match="row step 2"):
        world.fill().read("5/x0", 0, slice(0, 4, 2))


def test_a_large_read_comes_in_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = world.fill()
    expected = cache.read_all("5/up.0/attention")
    preadv = os.preadv

    def short(file: int, views: list[memoryview], start: int) -> int:
        return preadv(file, [view.cast("B")[:7] for view in views if view.nbytes], start)

    monkeypatch.setattr(os, "preadv", short)
    assert torch.equal(cache.read_all("5/up.0/attention"), expected)


def test_a_file_that_shrinks_while_it_is_open(world: World) -> None:
    cache = world.fill()
    cache.read("5/x0", 0)
    os.truncate(world.folder / "shards" / "00000.safetensors", 100)
    with pytest.raises(CacheError, match="truncated"):
        cache.read("5/x0", 0)


def test_a_shard_file_that_is_gone(world: World) -> None:
    cache = world.fill()
    (world.folder / "shards" / "00001.safetensors").unlink()
    (world.folder / "images" / "00001.parquet").unlink()
    with pytest.raises(CacheError, match=r"00001.safetensors: No such file.*verify"):
        cache.read("5/x0", 1)
    with pytest.raises(CacheError, match=r"00001.parquet.*verify"):
        cache.image(4)


def test_prefetch_asks_for_the_array_and_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = world.fill()
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, start, size, advice: asked.append((start, size)))
    cache.prefetch("5/x0", 1)
    with safe_open(world.folder / "shards" / "00001.safetensors", "np") as file:
        wanted = file.get_tensor("5/x0").tobytes()
    data = (world.folder / "shards" / "00001.safetensors").read_bytes()
    assert [data[start : start + size] for start, size in asked] == [wanted]
    with pytest.raises(CacheError, match="no step 3"):
        cache.prefetch("3/x0", 1)


def test_full_shards_share_one_parsed_header(world: World) -> None:
    cache = world.fill()
    headers = [cache._files(cache._paths[shard]).header for shard in cache.shards]
    assert headers[0] is headers[1] is headers[2]


def test_open_files_are_bounded_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_OPEN_FILES", 3)
    cache = World(tmp_path / "c", prompts=8, seeds=1, shard_size=1).fill()
    assert len(cache.shards) == 8
    assert open_files(tmp_path) == 0
    for shard in [*cache.shards, *cache.shards]:
        cache.read("1/x0", shard)
        assert 1 <= open_files(tmp_path) <= 3
    cache.close()
    assert open_files(tmp_path) == 0
    assert cache.read("1/x0", 7).shape == (1, 4, 2, 2)
    assert open_files(tmp_path) == 1
    del cache
    assert open_files(tmp_path) == 0


def open_files(folder: Path) -> int:
    """How many files of a folder this process has open. What other tests left does not count."""
    return sum(target_of(handle).startswith(str(folder)) for handle in Path("/proc/self/fd").iterdir())


def target_of(handle: Path) -> str:
    try:
        return os.readlink(handle)
    except FileNotFoundError:  # closed since it was listed, as that of the list itself
        return ""


def test_pickled_reader_opens_its_own_files(world: World) -> None:
    cache = world.fill()
    expected = cache.read_all("5/x0")
    data = pickle.dumps(cache)
    assert len(data) < 1000
    assert torch.equal(pickle.loads(data).read_all("5/x0"), expected)


def test_pickled_reader_sees_the_shards_of_its_parent(world: World) -> None:
    writer = world.writer()
    world.write(writer, 1)
    data = pickle.dumps(Cache(world.folder))
    world.write(writer, 0)
    copy = pickle.loads(data)
    assert copy.shards == [1]
    assert len(copy.read_all("5/x0")) == len(copy.complete_samples) == 4


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_workers(world: World, method: str) -> None:
    cache = world.fill()
    expected = cache.read_all("5/x0")  # the parent has its files open when the workers start
    loader = DataLoader(ShardDataset(cache), batch_size=None, num_workers=1, multiprocessing_context=method)
    assert torch.equal(torch.cat(list(loader)), expected)
    assert torch.equal(cache.read_all("5/x0"), expected)


def test_threads_evict_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_OPEN_FILES", 1)
    world = World(tmp_path / "c", prompts=8, seeds=1, shard_size=1, steps=(1,), taps={"x0": (8, 16, 16)})
    cache = world.fill()
    expected = {shard: cache.read("1/x0", shard) for shard in cache.shards}

    def work(seed: int) -> bool:
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed)).tolist()
        return all(torch.equal(cache.read("1/x0", shard), expected[shard]) for shard in order)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(100)))


def _resident() -> int:
    """Resident bytes of this process, mapped file pages included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_of_streaming_does_not_grow_with_the_cache(tmp_path: Path) -> None:
    world = World(
        tmp_path / "c",
        prompts=16,
        seeds=8,
        shard_size=16,
        steps=(1, 2),
        taps={"x0": (16, 32, 32), "latent": (16, 32, 32)},
    )
    cache = world.fill()
    size = sum(path.stat().st_size for path in (world.folder / "shards").iterdir())
    assert size > 16e6

    keys = cache.keys()

    def stream() -> Iterator[int]:
        out = torch.empty(8, 16, 32, 32, dtype=torch.float16)
        for key in keys:
            for shard in cache.shards:
                for row in range(0, 16, 8):
                    cache.read(key, shard, slice(row, row + 8), out=out)
            yield _resident()

    levels = list(stream())
    assert max(levels) - levels[0] < size / 8
