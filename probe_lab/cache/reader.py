"""Reads a cache: some rows of one (step, tap) are one `preadv` into a tensor; nothing is mapped.

Every file is compared with what it says of itself when it is opened, and what it holds with its checksums the first
time that it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from probe_lab.cache.faults import Fault
from probe_lab.cache.images import read_image, read_images
from probe_lab.cache.layout import (
    PREVIEWED,
    TOKEN_MASK,
    PreviewOf,
    complete_shards,
    scores_folder,
    shard_path,
    stems,
)
from probe_lab.cache.manifest import IMAGES
from probe_lab.cache.opened import open_cache
from probe_lab.cache.scattered_rows import read_scattered
from probe_lab.cache.scores import read_score_metadata, read_scores
from probe_lab.cache.shards import AGAIN, Unread, load_sidecar, require_images
from probe_lab.cache.stored_labels import StoredLabels
from probe_lab.cache.tensor_rows import TensorRows
from probe_lab.cache.tensors import IntArray, OpenFile, TensorEntry
from probe_lab.cache.text_table import read_text, text_objection
from probe_lab.errors import CacheError, nearest

_OPEN_FILES = 64


class _State(TypedDict):
    folder: Path
    shards: list[int]


class Cache:
    """A cache as it was when opened: shards that are completed later are seen by opening it again.

    Safe in threads, after fork, and pickled to other processes (it travels as its path and its list of
    shards). CacheError when the folder is not a cache or is of another format version.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        opened = open_cache(self.folder)
        self.manifest = opened.manifest
        self.samples: pd.DataFrame = opened.samples
        self.identity = opened.identity
        self.shards: list[int] = complete_shards(self.folder)
        self._prepare()

    def _prepare(self) -> None:
        self._keys = dict.fromkeys([*self.manifest.keys(), TOKEN_MASK])
        self._files = lru_cache(maxsize=_OPEN_FILES)(OpenFile)
        self._images: dict[int, tuple[Path, int]] = {}
        sizes = self.samples["shard"].value_counts()
        self._rows = {shard: int(sizes.get(shard, 0)) for shard in self.shards}
        self._paths = {shard: str(shard_path(self.folder, shard)) for shard in self.shards}
        self._unread = Unread(self.folder, self._rows, self.identity)

    def _open(self, shard: int) -> OpenFile:
        file = self._files(self._paths[shard])
        if self._unread.opened.get(shard) != file.stamp:
            self._unread.open(shard, file)
        return file

    def __getstate__(self) -> _State:
        # A worker sees the shards that its parent saw, also while another process is still adding some.
        return {"folder": self.folder, "shards": self.shards}

    def __setstate__(self, state: _State) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]
        self.shards = state["shards"]
        self._prepare()

    def close(self) -> None:
        """Close the open files; reading again opens them again."""
        self._files.cache_clear()

    def keys(self) -> list[str]:
        """Every array, "<step>/<tap string>"; a token mask is read as "token_mask" beside them."""
        return self.manifest.keys()

    @property
    def complete_samples(self) -> pd.DataFrame:
        """The samples of the complete shards, in the row order of `read_all`."""
        return self.samples[self.samples["shard"].isin(self.shards)]

    @cached_property
    def faults(self) -> dict[int, Fault]:
        """The samples of complete shards whose image is no picture of its prompt, by sample_id. They have no score."""
        found: dict[int, Fault] = {}
        starts = self.samples.groupby("shard")["sample_id"].first()
        for shard in self.shards:
            first = int(starts.loc[shard]) if shard in starts.index else 0
            sidecar = load_sidecar(self.folder, shard, self._rows[shard], self.identity)
            found |= {first + row: fault for row, fault in sidecar.faults.items()}
        return found

    @property
    def picture_samples(self) -> pd.DataFrame:
        """The ``complete_samples`` without those that have a fault: what may be scored, shown and learned from."""
        complete = self.complete_samples
        return complete[~complete["sample_id"].isin(list(self.faults))]

    def rows(self, shard: int) -> int:
        """How many samples a complete shard holds. CacheError when the shard is not complete."""
        if shard not in self._rows:
            raise CacheError(
                f"shard {shard} of {self.folder} is not complete ({len(self.shards)} shards are): "
                "run `probe-lab generate` again, it resumes"
            )
        return self._rows[shard]

    def read(self, key: str, shard: int, rows: slice | None = None, out: Tensor | None = None) -> Tensor:
        """Rows of one array of one shard, [k, C, H, W] in the stored dtype ("token_mask": uint8 [k, L]).

        `rows` is a slice of step 1. `out`, a contiguous CPU tensor of exactly that shape and dtype, is filled
        and returned; reusing one buffer is the fastest way to stream. CacheError for an unknown key (with the
        nearest), a step that was not captured, an incomplete shard, an `out` that does not fit, a damaged file, or one
        of another shard or cache.
        """
        if key not in self._keys:
            raise self._unknown(key)
        count = self.rows(shard)
        start, stop, step = (rows or slice(None)).indices(count)
        if step != 1:
            raise CacheError(f"cannot read {key!r} with the row step {step}: read the whole range, then index it")
        file = self._open(shard)
        entry = self._entry(file, key, count)
        shape = (max(stop - start, 0), *entry.shape[1:])
        if out is None:
            out = torch.empty(shape, dtype=entry.dtype)
        elif out.shape != shape or out.dtype != entry.dtype or not out.is_contiguous() or out.device.type != "cpu":
            raise CacheError(
                f"cannot read {key!r} into a tensor of {tuple(out.shape)} {out.dtype} on {out.device}: "
                f"give a contiguous CPU tensor of {shape} {entry.dtype}"
            )
        file.read_into(out, entry.start + start * entry.row_bytes)
        if self._unread.has(shard, key, slice(start, stop)):
            self._unread.compare(shard, key, file, slice(start, stop), out)
        return out

    def read_rows(self, key: str, shard: int, rows: IntArray, out: Tensor, places: IntArray) -> None:
        """Rows of one array of one shard, scattered: row ``rows[i]`` becomes ``out[places[i]]``.

        `rows` are in ascending order, and may repeat; `out` is a contiguous CPU tensor of the stored dtype and shape.
        Neighbours are one read. CacheError as in `read`, and for a row that the shard lacks.
        """
        if key not in self._keys:
            raise self._unknown(key)
        count = self.rows(shard)
        file = self._open(shard)
        entry = self._entry(file, key, count)
        if out.shape[1:] != entry.shape[1:] or out.dtype != entry.dtype or not out.is_contiguous():
            raise CacheError(
                f"cannot read {key!r} into a tensor of {tuple(out.shape)} {out.dtype}: give a contiguous CPU tensor of "
                f"{(len(out), *entry.shape[1:])} {entry.dtype}"
            )
        if len(rows) and not 0 <= rows[0] <= rows[-1] < count:
            raise CacheError(f"shard {shard} of {self.folder} has {count} rows, and row {rows[-1]} was asked for")
        read_scattered(file, entry, rows, out, places)
        if self._unread.has(shard, key, rows):
            self._unread.compare(shard, key, file, rows, out.index_select(0, torch.from_numpy(places)))

    def prefetch(self, key: str, shard: int) -> None:
        """Ask the kernel to bring one array of one complete shard into memory, and return at once.

        For a stream over a cache that is not in memory yet: call it for the next shard. Errors as in `read`.
        """
        if key not in self._keys:
            raise self._unknown(key)
        count = self.rows(shard)
        file = self._open(shard)
        file.prefetch(self._entry(file, key, count))

    def require_whole(self) -> None:
        """CacheError for the first complete shard whose files are not those that were written, as far as their sizes
        and what they say of themselves tell."""
        for shard in self.shards:
            self._open(shard)
            if self.manifest.has_images:
                self._image_file(shard)

    def read_all(self, key: str) -> Tensor:
        """One array of all complete shards, [n, C, H, W], allocated once; rows as in `complete_samples`."""
        if key not in self._keys:
            raise self._unknown(key)
        if not self.shards:
            raise CacheError(f"the cache {self.folder} has no complete shard: run `probe-lab generate` first")
        first = self.read(key, self.shards[0], slice(0, 0))
        out = torch.empty((sum(self._rows.values()), *first.shape[1:]), dtype=first.dtype)
        done = 0
        for shard in self.shards:
            self.prefetch(key, shard)
            self.read(key, shard, out=out[done : done + self._rows[shard]])
            done += self._rows[shard]
        return out

    def image(self, sample_id: int) -> bytes:
        """PNG bytes of one sample. CacheError as in `iter_images`, or when the cache has no such sample."""
        if not 0 <= sample_id < len(self.samples):
            raise CacheError(f"the cache {self.folder} has samples 0 to {len(self.samples) - 1}, not {sample_id}")
        shard, row = self.samples[["shard", "row"]].to_numpy()[sample_id].tolist()
        self._require_images()
        self.rows(shard)
        path = self._image_file(shard)
        found, data = read_image(path, row)
        self._require_sample(path, row, found, sample_id)
        return data

    def iter_images(self, shard: int) -> Iterator[tuple[int, bytes]]:
        """(sample_id, PNG bytes) of one complete shard in row order, a few in memory at a time.

        CacheError when the cache was made without images, or the shard is not complete.
        """
        self._require_images()
        self.rows(shard)
        return self._images_of(shard)

    def _images_of(self, shard: int) -> Iterator[tuple[int, bytes]]:
        path = self._image_file(shard)
        ids = self.samples["sample_id"][self.samples["shard"] == shard].tolist()
        for row, (sample, data) in enumerate(read_images(path)):
            self._require_sample(path, row, sample, ids[row] if row < len(ids) else None)
            yield sample, data

    def _image_file(self, shard: int) -> Path:
        """The file of a shard's images, compared with its sidecar and the cache while it stays the one that it was."""
        if shard in self._images:
            path, changed = self._images[shard]
            if path.exists() and path.stat().st_mtime_ns == changed:
                return path
        sidecar = load_sidecar(self.folder, shard, self._rows[shard], self.identity)
        path = require_images(self.folder, shard, sidecar, self.identity)
        self._images[shard] = path, path.stat().st_mtime_ns
        return path

    def _require_sample(self, path: Path, row: int, found: int, wanted: int | None) -> None:
        if found != wanted:
            belongs = "nothing" if wanted is None else f"sample {wanted}"
            raise CacheError(f"{path} has the image of sample {found} in row {row}, where {belongs} belongs: {AGAIN}")

    def text(self, encoder: str) -> dict[str, Tensor]:
        """The tensors of one text encoder, row p for prompt_id p. CacheError when it was not cached, is damaged, or is
        of another encoder or cache."""
        rows = self.text_rows(encoder)
        return {name: rows.whole(name) for name in rows.names}

    def text_rows(self, encoder: str) -> TensorRows:
        """The same, read row by row when it is asked for: FLUX has 8 MB of text per prompt. Errors as in `text`."""
        self.require_text(encoder)
        return read_text(self.folder, encoder, self.identity, int(self.samples["prompt_id"].nunique()))

    def has_text(self, encoder: str) -> bool:
        """Whether there is text of this encoder that, as far as it says, is this cache's."""
        return encoder in self.text_encoders() and not text_objection(self.folder, encoder, self.identity)

    def require_text(self, encoder: str) -> None:
        """CacheError when the text of this encoder was not cached."""
        if encoder not in self.text_encoders():
            raise CacheError(
                f"the cache {self.folder} has no text of {encoder!r}: "
                f"{nearest(encoder, self.text_encoders())}; "
                "`probe-lab generate` writes that of its backbone, and `probe-lab score` that of text.encoder"
            )

    def text_encoders(self) -> list[str]:
        return stems(self.folder / "text", ".safetensors")

    @property
    def labels(self) -> StoredLabels:
        """Altered captions of the training prompts, and scores under them, as far as `probe-lab score` made any."""
        return StoredLabels(self.folder, self.identity, lambda: self.picture_samples)

    def evaluators(self) -> list[str]:
        """Names of the evaluators that have scores here, also where some samples have none."""
        return stems(self.folder / "scores", ".parquet")

    def scores(self, evaluator: str) -> npt.NDArray[np.float32]:
        """Raw scores, float32 [n] in sample_id order over all samples; NaN where a sample has none yet, or has an image
        that is no picture (`faults`).

        ScoreError when the evaluator has no file here (lists those that have), or one that this cache cannot
        belong to.
        """
        scores = read_scores(self.folder, evaluator, len(self.samples), identity=self.identity)
        return self._of_pictures(scores)

    def score_metadata(self, evaluator: str) -> dict[str, str]:
        """What `write_scores` was told: version, checkpoint, preprocessing. Errors as in `scores`."""
        return read_score_metadata(self.folder, evaluator)

    def previewed(self, step: int, latent: str = PREVIEWED[0]) -> list[str]:
        """Names of the evaluators that have scored what a latent of a step (``x0``, ``lookahead``) decodes to."""
        return stems(scores_folder(self.folder, PreviewOf(step, latent)), ".parquet")

    def preview_scores(self, evaluator: str, step: int, latent: str = PREVIEWED[0]) -> npt.NDArray[np.float32]:
        """As `scores`, of the pictures that a latent of a step (``x0``, ``lookahead``) decodes to."""
        of, count = PreviewOf(step, latent), len(self.samples)
        return self._of_pictures(read_scores(self.folder, evaluator, count, of, identity=self.identity))

    def _of_pictures(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """An import, or a file from before, may have scores of the others."""
        scores[list(self.faults)] = np.nan
        return scores

    def _require_images(self) -> None:
        if not self.manifest.has_images:
            raise CacheError(
                f"the cache {self.folder} holds no images ({IMAGES}=false): generate it with {IMAGES}=true and another "
                "cache.name, or import scores by prompt and seed"
            )

    def _entry(self, file: OpenFile, key: str, count: int) -> TensorEntry:
        entry = file.header.entries.get(key)
        if entry is None:
            raise CacheError(f"{file.path} has no array {key!r}: the cache was made without it")
        if entry.shape[:1] != (count,):
            rows = entry.shape[0] if entry.shape else "no"
            raise CacheError(
                f"{file.path} has {rows} rows of {key!r} where samples.parquet counts {count}; "
                "`probe-lab cache verify` lists what is damaged"
            )
        manifest = self.manifest
        if key != TOKEN_MASK and (entry.shape[1:], entry.dtype) != (manifest.shape(key), manifest.array_dtype):
            raise CacheError(
                f"{file.path} has {key!r} as {list(entry.shape[1:])} {entry.dtype}, and manifest.json says "
                f"{list(manifest.shape(key))} {manifest.cache_dtype}; `probe-lab cache verify` lists what is damaged"
            )
        return entry

    def _unknown(self, key: str) -> CacheError:
        step, _, tap = key.partition("/")
        if tap in self.manifest.taps and step.isdigit():
            steps = ", ".join(str(step) for step in self.manifest.captured_steps)
            return CacheError(
                f"the cache {self.folder} has no step {step} (it has {steps}): add it to "
                "capture.steps and run "
                "`probe-lab generate` with another cache.name"
            )
        return CacheError(f"the cache {self.folder} has no array {key!r}: {nearest(key, self.keys())}")
