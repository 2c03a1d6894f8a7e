"""What a cache's files say of themselves: swapped, foreign and changed ones are named by whoever reads them."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cache_world import World
from rich.console import Console
from safetensors.torch import load_file, save_file

from probe_lab.cache import Cache, CacheWriter, sha256_of, verify, write_scores
from probe_lab.cache.identity import prompts_sha256
from probe_lab.cache.info import describe, info_table
from probe_lab.cache.layout import PreviewOf
from probe_lab.cache.samples import to_table
from probe_lab.cache.tables import write_table
from probe_lab.cache.tensors import OpenFile, content_sha256, row_checksums
from probe_lab.errors import CacheError, ProbeLabError, ScoreError

SHARD, SIDECAR, IMAGES = "shards/00001.safetensors", "shards/00001.json", "images/00001.parquet"
SCORES, TEXT, SAMPLES = "scores/sharp.parquet", "text/clip.safetensors", "samples.parquet"
PREVIEWS = "previews/5/sharp.parquet"
FILES = ("manifest.json", SAMPLES, SHARD, SIDECAR, IMAGES, SCORES, PREVIEWS, TEXT)


def _filled(folder: Path, **changes: object) -> World:
    """A cache with scores of previews; ``changes`` of its manifest make another one."""
    world = World(folder)
    writer = CacheWriter(folder, world.manifest(**changes), world.samples, texts=["clip"])
    for shard in writer.pending():
        world.write(writer, shard)
    writer.write_text("clip", {"embedding": torch.arange(18.0).reshape(6, 3)})
    for of in (None, PreviewOf(5), PreviewOf(1)):
        for number, name in enumerate(("sharp", "soft")):
            ids = list(range(world.count))
            scores = [float(sample * (1 + number) + (of.step if of else 0)) for sample in ids]
            write_scores(folder, name, ids, scores, metadata={"evaluator": name}, of=of)
    return world


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> World:
    return _filled(tmp_path_factory.mktemp("whole") / "c")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> World:
    return _filled(tmp_path_factory.mktemp("foreign") / "c", guidance=5.0)


@pytest.fixture
def world(whole: World, tmp_path: Path) -> World:
    shutil.copytree(whole.folder, tmp_path / "c")
    return World(tmp_path / "c")


def _everything(folder: Path) -> list[object]:
    """All that any reader takes from a cache."""
    cache = Cache(folder)
    facts = replace(cache.manifest, name="", code_version="")  # a label, and a note
    content: list[object] = [facts, cache.samples.to_numpy().tolist()]
    content += [cache.read_all(key).tolist() for key in (*cache.keys(), "token_mask")]
    content += [list(cache.iter_images(shard)) for shard in cache.shards] + [cache.image(5)]
    content += [cache.scores(name).tolist() for name in ("sharp", "soft")]
    content += [cache.preview_scores("sharp", 5).tolist(), cache.text("clip")["embedding"].tolist()]
    return content


def _swap(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def _is_noticed(folder: Path, name: str) -> None:
    """A reader and ``verify`` both name the file (or, for the two that say what a cache is, one of them)."""
    names = {name, "samples.parquet", "manifest.json"} if name in ("manifest.json", SAMPLES) else {name}
    names |= {SHARD, SIDECAR} if name in (SHARD, SIDECAR) else set()
    with pytest.raises(ProbeLabError) as caught:
        _everything(folder)
    assert any(known in str(caught.value) for known in names), caught.value
    assert "\n" not in str(caught.value)
    assert {problem.file for problem in verify(folder)} & names


def test_a_whole_cache_has_no_problem(world: World) -> None:
    assert verify(world.folder) == []
    assert describe(world.folder)["cache_id"] == Cache(world.folder).identity.id


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_cache(world: World, foreign: World, name: str) -> None:
    shutil.copy(foreign.folder / name, world.folder / name)
    _is_noticed(world.folder, name)


def test_a_whole_shard_of_another_cache_is_generated_again(world: World, foreign: World) -> None:
    for name in (SHARD, SIDECAR, IMAGES):
        shutil.copy(foreign.folder / name, world.folder / name)
    _is_noticed(world.folder, SIDECAR)
    writer = CacheWriter(world.folder, world.manifest(), world.samples)
    assert writer.pending() == [1]
    assert "another cache" in writer.spoilt()[1]
    world.write(writer, 1)
    assert verify(world.folder) == []
    assert writer.pending() == []


@pytest.mark.parametrize("names", [(SHARD,), (SIDECAR,), (IMAGES,), (SHARD, SIDECAR), (SHARD, SIDECAR, IMAGES)])
def test_swapped_files_of_two_shards(world: World, names: tuple[str, ...]) -> None:
    for name in names:
        _swap(world.folder / name, world.folder / name.replace("00001", "00000"))
    with pytest.raises(CacheError, match=r"0000\d\."):
        _everything(world.folder)
    assert {Path(problem.file).stem for problem in verify(world.folder)} >= {"00000", "00001"}
    with pytest.raises(CacheError, match=r"0000\d\."):
        Cache(world.folder).require_whole()


@pytest.mark.parametrize("other", ["scores/soft.parquet", PREVIEWS, "previews/1/sharp.parquet"])
def test_swapped_scores(world: World, other: str) -> None:
    _swap(world.folder / SCORES, world.folder / other)
    with pytest.raises(ScoreError, match=r"sharp.parquet is not what belongs there: it is .* moved or copied here"):
        Cache(world.folder).scores("sharp")
    assert {problem.file for problem in verify(world.folder)} == {SCORES, other}


def test_scores_of_before_name_their_evaluator_all_the_same(world: World) -> None:
    for name in ("sharp", "soft"):
        table = pq.read_table(world.folder / "scores" / f"{name}.parquet")
        table = table.replace_schema_metadata({"evaluator": name})
        pq.write_table(table, world.folder / "scores" / f"{name}.parquet")
    assert verify(world.folder) == []
    shutil.copy(world.folder / SCORES, world.folder / "scores" / "sharp@1a2b3c4d.parquet")  # kept ones
    assert verify(world.folder) == []
    _swap(world.folder / SCORES, world.folder / "scores" / "soft.parquet")
    with pytest.raises(ScoreError, match="it has the scores of soft"):
        Cache(world.folder).scores("sharp")


def test_a_changed_score_behind_a_right_name(world: World) -> None:
    table = pq.read_table(world.folder / SCORES)
    scores = pa.array([9.0, *table["score"].to_pylist()[1:]], pa.float32())
    pq.write_table(table.set_column(1, table.schema.field("score"), scores), world.folder / SCORES)
    _is_noticed(world.folder, SCORES)


def test_samples_that_are_not_the_manifests(world: World) -> None:
    shifted = world.samples
    shifted["prompt"] = shifted["prompt"].to_numpy()[[*range(2, 12), 0, 1]]
    shifted["seed"] += 1
    write_table(world.folder / SAMPLES, to_table(shifted))  # as other tools write it: without our metadata
    with pytest.raises(ProbeLabError, match="belongs to another cache"):
        _everything(world.folder)
    assert any("belongs to another cache" in problem.message for problem in verify(world.folder))


def test_prompts_are_compared_with_their_checksum(tmp_path: Path) -> None:
    plain = World(tmp_path / "c")
    CacheWriter(plain.folder, plain.manifest(prompts_sha256=prompts_sha256(plain.samples)), plain.samples)
    shifted = plain.samples
    shifted["prompt"] = shifted["prompt"].to_numpy()[[*range(2, 12), 0, 1]]
    write_table(plain.folder / SAMPLES, to_table(shifted))
    with pytest.raises(CacheError, match=r"samples.parquet has other prompts than manifest.json says"):
        Cache(plain.folder)
    assert verify(plain.folder)[0].file == SAMPLES


def test_bytes_that_flip_are_noticed_or_change_nothing(world: World) -> None:
    chance = random.Random(3)
    expected = _everything(world.folder)
    for name in FILES:
        path = world.folder / name
        whole = path.read_bytes()
        for _ in range(12):
            damaged = bytearray(whole)
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            path.write_bytes(bytes(damaged))
            with contextlib.suppress(ProbeLabError):
                assert _everything(world.folder) == expected
            verify(world.folder)
        path.write_bytes(whole)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [0, 9, -1])
def test_truncated_files(world: World, name: str, size: int) -> None:
    path = world.folder / name
    path.write_bytes(path.read_bytes()[:size] if size != -1 else path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ProbeLabError, match=Path(name).stem):
        _everything(world.folder)
    assert any(problem.file in (name, SHARD, SIDECAR, SAMPLES) for problem in verify(world.folder))


def test_a_flipped_bit_of_an_array_is_noticed_by_the_row_that_is_read(world: World) -> None:
    path = world.folder / SHARD
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # of the token mask, row 3
    cache = Cache(world.folder)
    assert cache.read("token_mask", 1, slice(0, 3)).shape == (3, 5)
    with pytest.raises(CacheError, match=r"00001.safetensors is damaged: 'token_mask' of row 3"):
        cache.read("token_mask", 1, slice(2, 4))
    path.write_bytes(whole)
    cache.close()
    assert cache.read("token_mask", 1).shape == (4, 5)


def test_what_was_compared_is_not_trusted_when_the_file_changed(world: World) -> None:
    cache = Cache(world.folder)
    cache.read_all("5/x0")
    path = world.folder / SHARD
    whole = path.read_bytes()
    tensors = load_file(path)
    tensors["5/x0"] = tensors["5/x0"].clone()
    tensors["5/x0"][2] += 1
    start = whole.index(load_file(path)["5/x0"].numpy().tobytes())
    data = tensors["5/x0"].numpy().tobytes()
    path.write_bytes(whole[:start] + data + whole[start + len(data) :])
    cache.close()
    with pytest.raises(CacheError, match=r"'5/x0' of row 2"):
        cache.read_all("5/x0")


@pytest.mark.parametrize("name", [SHARD, IMAGES])
@pytest.mark.parametrize("gone", [True, False])
def test_shards_that_are_empty_or_gone_are_generated_again(world: World, name: str, gone: bool) -> None:
    if gone:
        (world.folder / name).unlink()
    else:
        (world.folder / name).write_bytes(b"")
    with pytest.raises(CacheError, match="00001"):
        Cache(world.folder).require_whole()
    writer = CacheWriter(world.folder, world.manifest(), world.samples)
    assert list(writer.spoilt()) == writer.pending() == [1]
    world.write(writer, 1)
    assert verify(world.folder) == []


def test_text_that_belongs_to_the_cache_is_missed(world: World) -> None:
    shutil.rmtree(world.folder / "text")
    (problem,) = verify(world.folder)
    assert problem.file == TEXT
    assert "is missing: run `probe-lab generate`" in problem.message


def test_text_of_another_encoder(world: World) -> None:
    shutil.copy(world.folder / TEXT, world.folder / "text" / "other.safetensors")
    with pytest.raises(CacheError, match=r"other.safetensors is not what belongs there: it is text/clip"):
        Cache(world.folder).text("other")
    assert not Cache(world.folder).has_text("other")
    assert [problem.file for problem in verify(world.folder)] == ["text/other.safetensors"]


def test_files_that_no_reader_knows(world: World) -> None:
    strangers = ["shards/².json", "shards/7.json", "images/a.png", "text/x.bin", "scores/x.csv", "previews/x"]
    for name in strangers:
        (world.folder / name).write_text("{}")
    (world.folder / "shards" / ".DS_Store").write_text("")
    assert sorted(problem.file for problem in verify(world.folder)) == sorted(strangers)
    assert Cache(world.folder).shards == [0, 1, 2]


def _unmarked(folder: Path) -> None:
    """The cache as it was written before its files carried an identity."""
    for path in [*folder.rglob("*.parquet")]:
        table = pq.read_table(path)
        plain = {
            key: value for key, value in (table.schema.metadata or {}).items() if not key.startswith(b"probe_lab.")
        }
        pq.write_table(table.replace_schema_metadata(plain), path)
    for path in [*folder.rglob("*.safetensors")]:
        tensors = load_file(path)
        metadata = {"format": "pt"}
        if path.parent.name == "text":
            metadata["sha256"] = content_sha256(tensors)
        save_file(tensors, path, metadata)
    for path in (folder / "shards").glob("*.json"):
        values = json.loads(path.read_text())
        for name in ("array_crc32", "cache", "shard", "digest"):
            del values[name]
        shard, images = path.with_suffix(".safetensors"), folder / "images" / f"{path.stem}.parquet"
        values |= {"bytes": shard.stat().st_size, "sha256": sha256_of(shard)}
        values |= {"images_bytes": images.stat().st_size, "images_sha256": sha256_of(images)}
        tensors = load_file(shard)
        order = {name: tensors[name] for name in OpenFile(str(shard)).header.entries}
        values["row_crc32"] = row_checksums(order, values["rows"])
        path.write_text(json.dumps(values))


def test_a_cache_of_before_is_read_and_says_so(world: World) -> None:
    expected = _everything(world.folder)
    _unmarked(world.folder)
    assert _everything(world.folder) == expected
    assert verify(world.folder) == []
    assert str(describe(world.folder)["cache_id"]).startswith("none: its files are from before")
    assert CacheWriter(world.folder, world.manifest(), world.samples).pending() == []
    _swap(world.folder / SHARD, world.folder / "shards/00000.safetensors")
    with pytest.raises(CacheError, match="first row is not the one that was written"):
        Cache(world.folder).read("5/x0", 0)


def test_two_writers_give_one_identity(tmp_path: Path) -> None:
    one, other = _filled(tmp_path / "a" / "c"), _filled(tmp_path / "b" / "c", code_version="2")
    files = [path.relative_to(one.folder) for path in one.folder.rglob("*") if path.is_file()]
    assert len(files) == 3 * 3 + 6 + 1 + 2
    for name in files:
        if name.name != "manifest.json":
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes(), name


def _hostile(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        change(header["embedding"])
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        _hostile(lambda entry: entry.update(shape=[float("inf"), 3])),
        _hostile(lambda entry: entry.update(data_offsets=[0.0, 72.0])),
        _hostile(lambda entry: entry.update(shape=[1, 0, 2**70], data_offsets=[0, 0])),
        _hostile(lambda entry: entry.update(shape=[2**62, 2**62, 0], data_offsets=[0, 0])),
        _hostile(lambda entry: entry.update(shape=[True, 18], data_offsets=[0, 72])),
        _hostile(lambda entry: entry.update(shape="6", data_offsets=[0, 72])),
        _hostile(lambda entry: entry.update(dtype=["F32"])),
        _hostile(lambda entry: entry.update(data_offsets=None)),
        lambda path: path.write_bytes((100000).to_bytes(8, "little") + b"[" * 100000),
        lambda path: path.write_bytes((6).to_bytes(8, "little") + b'{"\xff":'),
    ],
)
def test_hostile_headers(world: World, damage: Callable[[Path], None]) -> None:
    damage(world.folder / TEXT)
    with pytest.raises(CacheError, match=r"clip.safetensors"):
        Cache(world.folder).text("clip")
    assert any(problem.file == TEXT for problem in verify(world.folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"bytes": "x"},
        {"bytes": True},
        {"rows": 4.0},
        {"row_crc32": []},
        {"row_crc32": [1, 2, "3", 4]},
        {"keys": "5/x0"},
        {"array_crc32": {"5/x0": "00"}},
        {"array_crc32": [1]},
        {"sha256": None},
        {"stranger": 1},
    ],
)
def test_hostile_sidecars(world: World, changes: dict[str, object]) -> None:
    path = world.folder / SIDECAR
    values = json.loads(path.read_text()) | changes
    del values["digest"]  # as an older one
    path.write_text(json.dumps(values))
    with pytest.raises(CacheError, match=r"00001.json is not a readable sidecar"):
        Cache(world.folder).read("5/x0", 1)
    assert [problem.file for problem in verify(world.folder)] == [SIDECAR]
    assert CacheWriter(world.folder, world.manifest(), world.samples).pending() == [1]


@pytest.mark.parametrize(
    "text", ["[" * 100000, '"', "\udcff", '{"format_version": 1}', "[1]", '{"guidance": 1' + "0" * 400, "{}"]
)
def test_hostile_manifests(world: World, text: str) -> None:
    path = world.folder / "manifest.json"
    if text.startswith('{"guidance'):
        text = path.read_text().replace('"guidance": 2.0', '"guidance": 1' + "0" * 400)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CacheError, match=r"manifest.json"):
        Cache(world.folder)
    assert [problem.file for problem in verify(world.folder)] == ["manifest.json"]


def test_info_shows_names_as_they_are(tmp_path: Path) -> None:
    world = World(tmp_path / "c")
    CacheWriter(world.folder, world.manifest(backbone="[/x]"), world.samples)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(info_table(world.folder))
    assert "[/x]" in console.export_text()
