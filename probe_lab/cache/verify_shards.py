"""What is wrong with one shard: its sidecar, its arrays, its images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from probe_lab.cache.files import sha256_of
from probe_lab.cache.identity import Identity
from probe_lab.cache.images import image_metadata, read_images
from probe_lab.cache.layout import TOKEN_MASK, Sidecar, images_path, shard_path, sidecar_path
from probe_lab.cache.manifest import Manifest
from probe_lab.cache.picture import opened
from probe_lab.cache.problems import Problem, problem, ranges
from probe_lab.cache.shards import AGAIN, sidecar_objection
from probe_lab.cache.tensors import OpenFile, data_order, read_bytes, read_header, row_checksums
from probe_lab.errors import CacheError


def shard_problems(
    folder: Path, manifest: Manifest, shard: int, ids: list[int] | None, identity: Identity | None
) -> Iterator[Problem]:
    """`ids` are the samples that belong to the shard, and `identity` that of the cache; None when samples.parquet
    cannot tell."""
    tensors, images, commit = (at(folder, shard) for at in (shard_path, images_path, sidecar_path))
    if ids == []:
        yield problem(folder, tensors, "no sample belongs to this shard: delete it")
        return
    if not commit.exists():
        started = "was never completed" if tensors.exists() or images.exists() else "is missing"
        yield problem(folder, tensors, f"shard {shard} {started}: `probe-lab generate` resumes there")
        return
    try:
        sidecar = Sidecar.load(commit)
    except CacheError as error:
        yield problem(folder, commit, str(error))
        return
    if identity and (objection := sidecar_objection(sidecar, shard, identity)):
        yield problem(folder, commit, f"it is not what belongs there: {objection}; {AGAIN}")
    if ids is not None and sidecar.rows != len(ids):
        yield problem(folder, commit, f"it has {sidecar.rows} rows, samples.parquet has {len(ids)} for this shard")
    yield from _array_problems(folder, tensors, manifest, sidecar, ids, identity)
    if manifest.has_images:
        yield from _image_problems(folder, images, manifest, sidecar, ids, identity)
    elif images.exists():
        yield problem(folder, images, "this cache was made without images: delete it")


def _array_problems(
    folder: Path,
    path: Path,
    manifest: Manifest,
    sidecar: Sidecar,
    ids: list[int] | None,
    identity: Identity | None,
) -> Iterator[Problem]:
    damage = _file_damage(path, sidecar.bytes, sidecar.sha256)
    if damage:
        rows = _damaged_rows(path, sidecar) if path.exists() else []
        where = f" (rows {ranges(rows)})" if rows else ""
        if rows and ids is not None and len(ids) == sidecar.rows:
            where = f" (rows {ranges(rows)}, samples {ranges([ids[row] for row in rows])})"
        yield problem(folder, path, f"{damage}{where}: {AGAIN}", rows[0] if rows else None)
        return
    try:
        file = OpenFile(str(path))
    except CacheError as error:
        yield problem(folder, path, str(error))
        return
    if identity and (objection := identity.objection(file.header.metadata)):
        yield problem(folder, path, f"it is not what belongs there: {objection}; {AGAIN}")
    keys = manifest.keys()
    for key in keys:
        entry = file.header.entries.get(key)
        wanted = (sidecar.rows, *manifest.shape(key))
        if entry is None:
            yield problem(folder, path, f"it lacks the array {key!r} that the manifest promises: {AGAIN}")
        elif (entry.shape, entry.dtype) != (wanted, manifest.array_dtype):
            yield problem(
                folder,
                path,
                f"array {key!r} is {entry.shape} {entry.dtype}, the manifest promises {wanted} {manifest.cache_dtype}",
            )
    for key in sorted(set(file.header.entries) - {*keys, TOKEN_MASK}):
        yield problem(folder, path, f"array {key!r} is not in the manifest")


def _image_problems(
    folder: Path,
    path: Path,
    manifest: Manifest,
    sidecar: Sidecar,
    ids: list[int] | None,
    identity: Identity | None,
) -> Iterator[Problem]:
    damage = _file_damage(path, sidecar.images_bytes, sidecar.images_sha256)
    if damage:
        yield problem(folder, path, f"{damage}: {AGAIN}")
        if not path.exists():
            return
    row = 0
    try:
        metadata = image_metadata(path)
        objection = identity.objection(metadata, path.relative_to(folder).as_posix()) if identity else ""
        if objection and not damage:
            yield problem(folder, path, f"it is not what belongs there: {objection}; {AGAIN}")
        for sample, data in read_images(path, checked=not damage):
            message = _image_damage(data, (manifest.width, manifest.height))
            if message:
                yield problem(folder, path, f"image of sample {sample} {message}", row)
            if ids is not None and row < len(ids) and sample != ids[row]:
                yield problem(folder, path, f"it has sample {sample} where {ids[row]} belongs", row)
            row += 1
    except CacheError as error:
        if not damage:
            yield problem(folder, path, str(error), row)
        return
    if row != sidecar.rows:
        yield problem(folder, path, f"it has {row} images for {sidecar.rows} samples: {AGAIN}")


def _file_damage(path: Path, size: int, sha256: str) -> str:
    try:
        found = path.stat().st_size
        if found != size:
            return f"{'truncated' if found < size else 'grown'}: {found} bytes, {size} were written"
        return "" if sha256_of(path) == sha256 else "its bytes changed since they were written (sha256 differs)"
    except FileNotFoundError:
        return "the file is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _damaged_rows(path: Path, sidecar: Sidecar) -> list[int]:
    """Rows whose bytes are not those that were written; none when it is the header, or cannot be told."""
    with open(path, "rb") as file:
        try:
            header = read_header(file.fileno(), str(path))
        except CacheError:
            return []
        entries = header.entries
        if header.file_size != sidecar.bytes:  # not the header that was written, and no end to what it may ask for
            return []
        if set(entries) != set(sidecar.keys) or any(entry.shape[:1] != (sidecar.rows,) for entry in entries.values()):
            return []
        tensors = {}
        for key, entry in entries.items():
            if not entry.size:
                continue
            # What a truncated file lacks becomes zeros here; `cut` tells it from true zeros.
            data = read_bytes(file.fileno(), entry.start, entry.size)
            tensors[key] = torch.frombuffer(data, dtype=entry.dtype).reshape(entry.shape)
        size = os.fstat(file.fileno()).st_size
    cut = {
        row
        for entry in entries.values()
        for row in range(sidecar.rows)
        if entry.start + (row + 1) * entry.row_bytes > size
    }
    found = row_checksums({key: tensors[key] for key in data_order(tensors)}, sidecar.rows)
    changed = {row for row, check in enumerate(found) if check != sidecar.row_crc32[row]}
    return sorted(cut | changed)


def _image_damage(data: bytes, size: tuple[int, int]) -> str:
    try:
        with opened(data) as image:
            image.verify()
            found = image.size
    except Exception as error:  # Pillow raises whatever its decoder met: OSError, SyntaxError, ValueError, struct.error
        return f"does not decode ({error})"
    return "" if found == size else f"is {found[0]}x{found[1]} pixels, the manifest says {size[0]}x{size[1]}"
