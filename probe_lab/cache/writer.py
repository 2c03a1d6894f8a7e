"""Fills a cache shard by shard; killed at any moment it loses at most the shard in progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probe_lab.cache.faults import Fault
from probe_lab.cache.files import StagedFile, disk_errors, locked, make_folder, remove_leftovers
from probe_lab.cache.identity import TEXTS, Identity, cache_id
from probe_lab.cache.images import write_images
from probe_lab.cache.layout import (
    FOLDERS,
    SAMPLES,
    TOKEN_MASK,
    Sidecar,
    complete_shards,
    images_path,
    shard_path,
    sidecar_path,
)
from probe_lab.cache.manifest import IMAGES, Manifest, manifest_path
from probe_lab.cache.mismatch import require_same
from probe_lab.cache.opened import open_cache
from probe_lab.cache.samples import IMAGE_ID, load_samples, sample_problems, to_frame, to_table
from probe_lab.cache.shards import shard_objection
from probe_lab.cache.tables import write_table
from probe_lab.cache.tensors import array_checksums, first_not_finite, row_checksums, write_tensors
from probe_lab.cache.text_table import write_text
from probe_lab.errors import CacheError, nearest

_PNG = b"\x89PNG\r\n\x1a\n"
_NO_FAULTS: Mapping[int, Fault] = MappingProxyType({})


class CacheWriter:
    """Writes the shards of one cache. Many processes and machines may fill one folder, each its own shards.

    `samples` has the columns sample_id (0..n-1 in order), prompt_id, prompt, seed, split, shard, row: the
    whole cache, also where this process writes only some shards. An existing cache is resumed when its
    manifest is the same, the code version aside. CacheError, naming the keys and both values, when it is not.
    A new cache says that the text of the encoders ``texts`` belongs to it, which `verify` then misses.
    """

    def __init__(
        self, folder: Path | str, manifest: Manifest, samples: pd.DataFrame, *, texts: Sequence[str] = ()
    ) -> None:
        self.folder = Path(folder)
        self.manifest = manifest
        table = to_table(samples)
        self.samples = to_frame(table)
        for row, message in sample_problems(table):
            raise CacheError(f"the sample table cannot be cached, row {row}: {message}")
        if len(self.samples) != manifest.count:
            raise CacheError(f"the sample table has {len(self.samples)} rows and the manifest counts {manifest.count}")
        shards, starts = np.unique(self.samples["shard"].to_numpy(), return_index=True)
        ends = [*starts[1:], len(self.samples)]
        self._shards = {int(s): self.samples.iloc[a:b] for s, a, b in zip(shards, starts, ends, strict=True)}

        for name in ("", *FOLDERS):
            make_folder(self.folder / name)
        with disk_errors(self.folder):
            remove_leftovers(self.folder)
        if not manifest_path(self.folder).exists():
            # The manifest comes last: a folder without one is not a cache yet, and both are written again.
            marks = Identity(cache_id(manifest, self.samples), carried=True).marks(SAMPLES)
            marks |= {TEXTS: ",".join(texts)} if texts else {}
            write_table(self.folder / SAMPLES, table.replace_schema_metadata(marks))
            manifest.save(self.folder)
        self._check_manifest()
        # The split is a note of what it was at generation time; data.split may change, the samples may not.
        noted = ["split", IMAGE_ID.name]
        stored = load_samples(self.folder / SAMPLES)
        if not stored.drop(columns=noted, errors="ignore").equals(self.samples.drop(columns=noted, errors="ignore")):
            raise CacheError(
                f"{self.folder / SAMPLES} holds other samples than this experiment asks for: choose another cache.name"
            )
        self._check_images(stored)
        self._identity = open_cache(self.folder).identity

    def pending(self) -> list[int]:
        """Shards that are not complete yet, whichever process may be writing them, and those that are `spoilt`."""
        return sorted(set(self._shards) - set(complete_shards(self.folder)) | self.spoilt().keys())

    def spoilt(self) -> dict[int, str]:
        """Complete shards whose files are not those that were written, and why: a file is gone, was cut, or is another
        shard's or another cache's. What their bytes say is for `verify`. `write_shard` writes them again."""
        complete = sorted(set(self._shards) & set(complete_shards(self.folder)))
        return {shard: objection for shard in complete if (objection := self._objection(shard))}

    def _objection(self, shard: int) -> str:
        rows, images = len(self.samples_of(shard)), self.manifest.has_images
        return shard_objection(self.folder, shard, rows, self._identity, images=images)

    def samples_of(self, shard: int) -> pd.DataFrame:
        """The samples of one shard in row order. CacheError for a shard that the cache does not have."""
        if shard not in self._shards:
            raise CacheError(f"the cache {self.folder} has shards 0 to {max(self._shards, default=-1)}, not {shard}")
        return self._shards[shard]

    def write_shard(
        self,
        shard: int,
        arrays: Mapping[str, Tensor],
        images: Sequence[bytes] = (),
        token_mask: Tensor | None = None,
        faults: Mapping[int, Fault] = _NO_FAULTS,
    ) -> None:
        """Store one shard whole or not at all: [n, C, H, W] per key of the manifest, n PNGs, mask [n, L].

        `faults` marks the rows whose image is no picture of its prompt: they never get a score.
        A cache without images (`Manifest.has_images`) takes none, and has no file of images for the shard.

        Arrays are cast to the manifest's `cache_dtype`, the mask to uint8; row i belongs to row i of
        `samples_of(shard)`. CacheError when a value is NaN, infinite or too large for the dtype (names key,
        row and value), when keys, shapes or counts are not the manifest's, when the shard is complete
        already and not `spoilt`, or when the disk is full or refuses the files.
        """
        rows = self.samples_of(shard)
        ids = [int(sample) for sample in rows["sample_id"]]
        self._check_open(shard)
        self._check_inputs(shard, arrays, images, token_mask, len(rows))
        keys = self.manifest.keys()
        tensors = {key: self._stored(shard, key, arrays[key]) for key in keys}
        if token_mask is not None:
            tensors[TOKEN_MASK] = token_mask.detach().to(torch.uint8).cpu().contiguous()

        target = shard_path(self.folder, shard)
        with disk_errors(target), ExitStack() as stack:
            image_file = None
            if self.manifest.has_images:
                image_file = stack.enter_context(StagedFile(images_path(self.folder, shard)))
                place = image_file.path.relative_to(self.folder).as_posix()
                write_images(image_file, ids, images, self._identity.marks(place))
                image_file.seal()
            tensor_file = stack.enter_context(StagedFile(target))
            write_tensors(tensor_file, tensors, self._identity.marks())
            tensor_file.seal()
            sidecar = Sidecar(
                rows=len(rows),
                bytes=tensor_file.size,
                sha256=tensor_file.sha256,
                images_bytes=image_file.size if image_file else 0,
                images_sha256=image_file.sha256 if image_file else "",
                keys=tuple(tensors),
                row_crc32=tuple(row_checksums(tensors, len(rows))),
                faults=dict(faults),
                array_crc32={
                    key: "".join(f"{check:08x}" for check in array_checksums(tensor)) for key, tensor in tensors.items()
                },
                cache=self._identity.id,
                shard=shard,
            )
            commit = stack.enter_context(StagedFile(sidecar_path(self.folder, shard)))
            commit.write(sidecar.to_json())
            commit.seal()
            # Under the lock, two processes that were given the same shard cannot mix their files.
            stack.enter_context(locked(manifest_path(self.folder)))
            self._check_open(shard)
            if image_file:
                image_file.commit()
            tensor_file.commit()
            commit.commit()

    def write_text(self, encoder: str, tensors: Mapping[str, Tensor]) -> None:
        """Store text/<encoder>.safetensors, see `probe_lab.cache.text_table.write_text`."""
        write_text(self.folder, encoder, tensors, prompts=int(self.samples["prompt_id"].nunique()))

    def _check_images(self, stored: pd.DataFrame) -> None:
        """CacheError where the cache would be split without a word by other images than the experiment's, or by
        prompts."""
        name = IMAGE_ID.name
        if name in self.samples and not (name in stored and stored[name].equals(self.samples[name])):
            wrong = "names other images than the experiment for" if name in stored else "does not say the images of"
            raise CacheError(
                f"{self.folder / SAMPLES} {wrong} its prompts, by which the experiment splits: choose another "
                "cache.name, or the source of prompts that the cache was made from"
            )

    def _check_manifest(self) -> None:
        stored = Manifest.load(self.folder).renamed(self.manifest.name)
        require_same(self.folder, stored, self.manifest)

    def _check_open(self, shard: int) -> None:
        self._check_manifest()  # somebody may have replaced the cache since this writer started
        sidecar = sidecar_path(self.folder, shard)
        if sidecar.exists():
            if self._objection(shard):
                with disk_errors(sidecar):
                    sidecar.unlink(missing_ok=True)
                return
            raise CacheError(
                f"shard {shard} of {self.folder} is complete already: another process was given "
                "the same prompts; "
                "give each its own range, and what is complete is kept"
            )

    def _check_inputs(
        self,
        shard: int,
        arrays: Mapping[str, Tensor],
        images: Sequence[bytes],
        token_mask: Tensor | None,
        count: int,
    ) -> None:
        expected = self.manifest.keys()
        for key in sorted(set(arrays) - set(expected)):
            raise CacheError(f"the manifest of {self.folder} has no array {key!r}: {nearest(key, expected)}")
        for key in expected:
            if key not in arrays:
                raise CacheError(f"shard {shard} lacks the array {key!r} that the manifest of {self.folder} promises")
            if tuple(arrays[key].shape) != (count, *self.manifest.shape(key)):
                raise CacheError(
                    f"array {key!r} of shard {shard} has the shape {tuple(arrays[key].shape)}, "
                    f"the manifest promises {(count, *self.manifest.shape(key))}"
                )
        if not self.manifest.has_images and images:
            raise CacheError(f"shard {shard} was given {len(images)} images and its cache holds none ({IMAGES}=false)")
        if self.manifest.has_images and len(images) != count:
            raise CacheError(f"shard {shard} has {count} samples and was given {len(images)} images")
        for row, data in enumerate(images):
            if not data.startswith(_PNG):
                raise CacheError(f"image of row {row} of shard {shard} is not a PNG file: encode it as PNG")
        if token_mask is not None and (token_mask.dim() != 2 or len(token_mask) != count):
            raise CacheError(
                f"token_mask of shard {shard} has the shape {tuple(token_mask.shape)}, not ({count}, tokens)"
            )

    def _stored(self, shard: int, key: str, array: Tensor) -> Tensor:
        """The array as it is stored. CacheError when a value of it cannot be."""
        dtype = self.manifest.array_dtype
        array = array.detach()
        if array.numel():
            # Minimum and maximum carry NaN on and rounding is monotone: one pass, and they stand for all.
            edges = torch.stack(torch.aminmax(array))
            if not torch.isfinite(edges).all():
                row = first_not_finite(array)
                finite = torch.nan_to_num(array.double(), nan=0.0, posinf=0.0, neginf=0.0).abs().max().item()
                raise CacheError(
                    f"array {key!r} of shard {shard} holds NaN or infinity in row {row} (largest "
                    f"finite value {finite:.6g}): "
                    "the backbone itself produced it, so sample with sampling.dtype=float32 or bfloat16"
                )
            if not torch.isfinite(edges.to(dtype)).all():
                row = first_not_finite(array.to(dtype))
                wider = "float32 or bfloat16" if dtype == torch.float16 else "float32"
                raise CacheError(
                    f"array {key!r} of shard {shard} overflows {self.manifest.cache_dtype} in row {row} "
                    f"(largest value {edges.abs().max().item():.6g}): set cache.dtype={wider}"
                )
        return array.to(dtype).cpu().contiguous()
