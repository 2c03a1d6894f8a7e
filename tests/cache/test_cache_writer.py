"""What the writer refuses, and that a refused shard leaves nothing behind."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cache_world import World, png

from probe_lab.cache import Cache, CacheWriter, require_space, shard_layout, verify
from probe_lab.errors import CacheError


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "c")


def _images(world: World, shard: int) -> list[bytes]:
    return [png(sample) for sample in world.ids(shard)]


def _refused(world: World, match: str, arrays: dict[str, torch.Tensor], **changes: object) -> None:
    writer = world.writer()
    files = sorted(world.folder.rglob("*"))
    arguments: dict[str, object] = {"images": _images(world, 1), "token_mask": None} | changes
    with pytest.raises(CacheError, match=match):
        writer.write_shard(1, arrays, **arguments)  # type: ignore[arg-type]
    assert sorted(world.folder.rglob("*")) == files
    assert writer.pending() == [0, 1, 2]


@pytest.mark.parametrize("value", [70000.0, -65520.0])
def test_float16_overflow(world: World, value: float) -> None:
    arrays = world.arrays(1)
    arrays["5/mid/activation"][2, 1, 0, 1] = value
    _refused(
        world,
        rf"'5/mid/activation' of shard 1 overflows float16 in row 2 \(largest value {abs(value):.6g}\): "
        "set cache.dtype=float32 or bfloat16",
        arrays,
    )


def test_largest_float16_is_not_an_overflow(world: World) -> None:
    arrays = world.arrays(1)
    arrays["5/x0"][0] = 65519.0  # rounds to 65504
    world.writer().write_shard(1, arrays, _images(world, 1))
    assert (Cache(world.folder).read("5/x0", 1)[0] == 65504).all()


def test_overflow_of_float16_fits_in_wider_dtypes(tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        world = World(tmp_path / dtype, cache_dtype=dtype)
        arrays = world.arrays(0)
        arrays["5/x0"][0] = 70000.0
        world.writer().write_shard(0, arrays, _images(world, 0))
        assert torch.equal(Cache(world.folder).read("5/x0", 0), arrays["5/x0"].to(getattr(torch, dtype)))


def test_bfloat16_overflow_asks_for_float32(tmp_path: Path) -> None:
    world = World(tmp_path / "c", cache_dtype="bfloat16")
    arrays = world.arrays(1)
    arrays["1/x0"][3] = torch.finfo(torch.float32).max
    _refused(world, r"overflows bfloat16 in row 3 .*: set cache.dtype=float32$", arrays)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_not_finite(world: World, value: float, dtype: torch.dtype) -> None:
    arrays = {key: array.clamp(-2, 2).to(dtype) for key, array in world.arrays(1).items()}
    arrays["1/up.0/attention"][1, 2, 3, 0] = value
    arrays["1/up.0/attention"][3, 0, 0, 0] = -12.5
    _refused(
        world,
        r"'1/up.0/attention' of shard 1 holds NaN or infinity in row 1 \(largest finite value 12.5\)",
        arrays,
    )


def test_keys_and_shapes_that_the_manifest_does_not_promise(world: World) -> None:
    arrays = world.arrays(1)
    _refused(world, "has no array '5/x1': did you mean '5/x0'", arrays | {"5/x1": arrays["5/x0"]})
    _refused(world, "lacks the array '5/x0'", {key: array for key, array in arrays.items() if key != "5/x0"})
    _refused(
        world,
        r"\(4, 4, 2, 1\), the manifest promises \(4, 4, 2, 2\)",
        arrays | {"5/x0": arrays["5/x0"][..., :1]},
    )
    _refused(world, r"\(3, 4, 2, 2\), the manifest promises \(4,", arrays | {"5/x0": arrays["5/x0"][:3]})


def test_images_and_mask_that_do_not_belong(world: World) -> None:
    images = _images(world, 1)
    _refused(world, "4 samples and was given 3 images", world.arrays(1), images=images[:3])
    _refused(
        world,
        "image of row 2 of shard 1 is not a PNG",
        world.arrays(1),
        images=[*images[:2], b"GIF", images[3]],
    )
    _refused(world, "token_mask of shard 1", world.arrays(1), token_mask=torch.ones(3, 5))


def test_shard_that_the_cache_does_not_have(world: World) -> None:
    with pytest.raises(CacheError, match="shards 0 to 2, not 3"):
        world.writer().write_shard(3, {}, [])


def test_noncontiguous_arrays_are_stored_in_order(world: World) -> None:
    arrays = {key: array.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0) for key, array in world.arrays(1).items()}
    assert not arrays["5/x0"].is_contiguous()
    world.writer().write_shard(1, arrays, _images(world, 1))
    assert torch.equal(Cache(world.folder).read("5/x0", 1), arrays["5/x0"].half())


def test_complete_shard_is_not_written_again(world: World) -> None:
    writer, late = world.writer(), world.writer()
    world.write(writer, 1)
    before = (world.folder / "shards" / "00001.safetensors").stat()
    with pytest.raises(CacheError, match=r"shard 1 .* is complete already.*own range"):
        world.write(late, 1)
    after = (world.folder / "shards" / "00001.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert writer.pending() == late.pending() == [0, 2]


def test_resume_writes_only_what_is_pending(world: World) -> None:
    world.write(world.writer(), 2)
    writer = CacheWriter(world.folder, world.manifest(code_version="2"), world.samples)
    assert writer.pending() == [0, 1]
    assert Cache(world.folder).manifest.code_version == "1"
    for shard in writer.pending():
        world.write(writer, shard)
    assert [problem.file for problem in verify(world.folder)] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance": 3.0}, "sampling.guidance (cache: 2.0, experiment: 3.0)"),
        ({"captured_steps": (1, 5, 8)}, "capture.steps (cache: [1, 5], experiment: [1, 5, 8])"),
        ({"prompts_sha256": "11ee" * 16}, "the sha256 of all prompts (cache: 00ff, experiment: 11ee11ee11ee…)"),
        (
            {"taps": {"x0": (4, 2, 2), "up.0/attention": (3, 4, 5)}},
            "capture.taps mid/activation (cache: [2, 2, 3], experiment: absent), "
            "capture.taps up.0/attention (cache: [3, 4, 4], experiment: [3, 4, 5])",
        ),
        ({"extra": {"capture.images": "false"}}, "capture.images (cache: default, experiment: false)"),
        (
            {"steps": 30, "dtype": "bfloat16"},
            "sampling.steps (cache: 25, experiment: 30), sampling.dtype (cache: float32, experiment: bfloat16)",
        ),
    ],
)
def test_resume_of_another_cache_names_keys_and_values(world: World, changes: dict[str, object], message: str) -> None:
    world.writer()
    with pytest.raises(CacheError, match=rf"experiment in {re.escape(message)}: give .*another cache\.name"):
        CacheWriter(world.folder, world.manifest(**changes), world.samples)


def test_resume_with_other_samples(world: World) -> None:
    world.writer()
    with pytest.raises(CacheError, match="other samples"):
        CacheWriter(world.folder, world.manifest(), world.samples.assign(seed=np.arange(12)))


def test_resume_where_other_images_or_none_were_named(world: World) -> None:
    """Their splits would be others than those that the experiment is planned with."""
    images = (world.samples["prompt_id"] // 2).astype(str)
    named = world.samples.assign(image_id=images)
    world.writer()
    with pytest.raises(CacheError, match=r"does not say the images of its prompts.*: choose another cache\.name"):
        CacheWriter(world.folder, world.manifest(), named)
    world.writer()
    shutil.rmtree(world.folder)
    CacheWriter(world.folder, world.manifest(), named)
    CacheWriter(world.folder, world.manifest(), named.assign(split="test"))
    world.writer()  # the cache knows more
    with pytest.raises(CacheError, match=r"names other images than the experiment .*another cache\.name"):
        CacheWriter(world.folder, world.manifest(), named.assign(image_id=images + "0"))


def test_cache_that_was_replaced_under_a_writer(world: World) -> None:
    writer = world.writer()
    shutil.rmtree(world.folder)
    CacheWriter(world.folder, world.manifest(guidance=4.0), world.samples)
    with pytest.raises(CacheError, match=r"sampling\.guidance \(cache: 4\.0"):
        world.write(writer, 0)
    assert Cache(world.folder).shards == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="seed"), "lacks seed"),
        (lambda frame: frame.assign(seed="x"), "another type"),
        (lambda frame: frame.assign(sample_id=[*range(11), 3]), "row 11: sample_id 3 is there twice"),
        (lambda frame: frame.assign(sample_id=range(1, 13)), "row 0: sample_id 1 where 0 belongs"),
        (
            lambda frame: frame.assign(prompt="same", seed=[*range(11), 4]),
            "row 11: prompt 'same' with seed 4",
        ),
        (lambda frame: frame.assign(split="tets"), "row 0: split 'tets'"),
        (lambda frame: frame.assign(row=0), "row 1: row 0 of shard 0 where 1 belongs"),
        (lambda frame: frame.assign(shard=frame["shard"].to_numpy()[::-1]), "row 4: shard 1 after shard 2"),
        (
            lambda frame: frame.assign(prompt_id=[0, 0, 1, 1, 1, *frame["prompt_id"][5:]]),
            "prompt 1 lie in several",
        ),
        (lambda frame: frame.assign(seed=pd.array([None, *range(11)], "Int64")), "row 0: a value is missing"),
        (lambda frame: frame[:10], "10 rows and the manifest counts 12"),
    ],
)
def test_sample_tables_that_break_a_rule(world: World, change: object, message: str) -> None:
    with pytest.raises(CacheError, match=message):
        CacheWriter(world.folder, world.manifest(), change(world.samples))  # type: ignore[operator]
    assert not world.folder.exists()


def test_unknown_cache_dtype(world: World) -> None:
    with pytest.raises(CacheError, match=r"cache.dtype='float8' is not one of bfloat16, float16, float32"):
        replace(world.manifest(), cache_dtype="float8")


def test_shard_size_below_one_prompt() -> None:
    with pytest.raises(CacheError, match=r"shard_size=7 cannot hold the 8 seeds"):
        shard_layout(80, 8, 7)


def test_text_that_cannot_be_stored(world: World) -> None:
    writer = world.writer()
    for encoder, tensors, message in (
        ("a/b", {"embedding": torch.ones(6, 2)}, "'a/b' cannot be a file name"),
        ("clip", {"embedding": torch.ones(5, 2)}, r"\(5, 2\), and the cache has 6 prompts"),
        ("clip", {"embedding": torch.tensor([[1.0]] * 4 + [[torch.inf]] * 2)}, "not finite for prompt_id 4"),
        ("clip", {}, "nothing to store"),
    ):
        with pytest.raises(CacheError, match=message):
            writer.write_text(encoder, tensors)
    assert list((world.folder / "text").iterdir()) == []


def test_require_space(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet", 1000)
    with pytest.raises(CacheError, match=r"needs 9000000.0 TB but its disk has [\d.]+ .B free"):
        require_space(tmp_path / "not" / "yet", 9 * 10**18)
    assert not (tmp_path / "not").exists()


def test_a_renamed_folder_is_the_same_cache(world: World) -> None:
    world.write(world.writer(), 0)
    moved = World(world.folder.rename(world.folder.with_name("moved")))
    writer = CacheWriter(moved.folder, moved.manifest(name="moved"), moved.samples)
    assert writer.pending() == [1, 2]
    moved.write(writer, 1)
    assert writer.pending() == [2]
