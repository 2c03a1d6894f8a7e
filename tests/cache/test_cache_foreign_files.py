"""Files that others put into a cache: pictures that are none, bombs, and pipes that nobody writes to."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cache_world import World, png
from PIL import Image

from probe_lab.cache import Cache, verify
from probe_lab.cache.images import SCHEMA
from probe_lab.cache.layout import images_path, scores_path, shard_path, sidecar_path
from probe_lab.cache.picture import opened
from probe_lab.errors import CacheError, ProbeLabError
from probe_lab.evaluators.decode import decoded

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
CACHE_PIXELS = 64 * 64


def bomb(width: int, height: int) -> bytes:
    """The beginning of a PNG whose header promises one bit for each of so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes(100_000), 9)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def saved(kind: str, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_of_a_cache_are_opened(kind: str) -> None:
    image = decoded(saved(kind), CACHE_PIXELS)
    assert image is not None
    assert image.size == (64, 64)


@pytest.mark.parametrize("data", [EPS, b"", b"\x89PNG\r\n\x1a\n", saved("GIF", mode="P"), saved("TIFF"), saved("ICO")])
def test_nothing_else_is(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS would start Ghostscript, here a stand-in that leaves a mark."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert decoded(data, CACHE_PIXELS) is None
    with pytest.raises(CacheError, match="not a readable picture"):
        opened(data)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("size", [(65, 64), (9000, 9000), (30_000, 1), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_header_that_promises_more_pixels_than_the_cache_is_not_decoded(size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert decoded(bomb(*size), CACHE_PIXELS) is None
        with pytest.raises(CacheError, match="pixels"):
            opened(bomb(*size), CACHE_PIXELS)


def test_verify_names_a_picture_of_another_kind(tmp_path: Path) -> None:
    world = World(tmp_path / "cache")
    world.fill()
    path = images_path(world.folder, 0)
    rows = pq.read_table(path).to_pylist()
    rows[1]["image"]["bytes"] = EPS
    pq.write_table(pq.read_table(path).from_pylist(rows, schema=SCHEMA), path)
    assert any("image of sample 1 does not decode" in problem.message for problem in verify(world.folder))


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(
    ("place", "use"),
    [
        (lambda folder: folder / "manifest.json", Cache),
        (lambda folder: folder / "samples.parquet", Cache),
        (lambda folder: shard_path(folder, 0), lambda folder: Cache(folder).read("1/x0", 0)),
        (lambda folder: images_path(folder, 0), lambda folder: Cache(folder).image(0)),
        (lambda folder: images_path(folder, 0), lambda folder: list(Cache(folder).iter_images(0))),
        (lambda folder: scores_path(folder, "sharp"), lambda folder: Cache(folder).scores("sharp")),
        (lambda folder: folder / "text" / "clip.safetensors", lambda folder: Cache(folder).text("clip")),
        (lambda folder: sidecar_path(folder, 0), lambda folder: _refused(verify(folder))),
    ],
)
def test_pipes_and_devices_are_not_read(
    tmp_path: Path, kind: str, place: Callable[[Path], Path], use: Callable[[Path], object]
) -> None:
    world = World(tmp_path / "cache")
    world.fill()
    path = place(world.folder)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    errors: list[BaseException] = []

    def attempt() -> None:
        try:
            use(world.folder)
        except ProbeLabError as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)  # a hang has to fail the test, not to stop it
    thread.start()
    thread.join(20)
    assert len(errors) == 1
    assert "regular file" in str(errors[0])


def _refused(problems: list[object]) -> None:
    assert problems
    raise CacheError(str(problems[0]))


def test_the_pictures_of_a_small_cache_are_no_larger(tmp_path: Path) -> None:
    assert World(tmp_path).manifest().pixels == len(range(8)) * len(range(6))
    assert opened(png(3), 48).size == (8, 6)
