"""What one evaluator has scored in a cache: the finished file, the partial one, and those of other checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from probe_lab.cache import Cache
from probe_lab.cache.layout import PreviewOf, partial_path, scores_path
from probe_lab.cache.overwriting import is_stale
from probe_lab.cache.scores import (
    UNREADABLE_IMAGES,
    read_partial_scores,
    read_score_metadata,
    read_scores,
    unreadable_images,
    write_partial_scores,
    write_scores,
)
from probe_lab.errors import ScoreError
from probe_lab.evaluators.base import Evaluator

NONE = "none"
_NOTHING: Mapping[str, str] = MappingProxyType({})


class ScoreLedger:
    """The scores of one evaluator, in memory and in its files.

    ``save`` keeps what there is: in ``scores/<evaluator>.partial``, or, once every sample of the complete shards has
    its score, in ``scores/<evaluator>.parquet``. There the scores of another checkpoint are not lost: that file
    becomes ``<evaluator>@<first 8 digits of its checkpoint's hash>.parquet``, and comes back with its checkpoint. (Of
    two files, 8 digits of each: ``aesthetic@1a2b3c4d-5e6f7a8b``.)

    Scores ``of`` previews depend on ``made_by`` too.

    Attributes:
        scores: float32 [n] by sample_id, NaN where there is none.
        unreadable: samples whose image cannot be decoded.
        notes: what became of the scores of another checkpoint, a line each.
    """

    def __init__(
        self,
        cache: Cache,
        evaluator: Evaluator,
        *,
        of: PreviewOf | None = None,
        made_by: Mapping[str, str] = _NOTHING,
    ) -> None:
        self.evaluator = evaluator
        self.name = evaluator.name
        self.notes: list[str] = []
        self._cache = cache
        self._of = of
        self._wanted = cache.picture_samples["sample_id"].to_numpy()
        self._metadata = evaluator.metadata() | dict(made_by)
        self._former = self._read(self.name)
        self._kept = self._read(self._kept_name(self._metadata))
        self.scores: NDArray[np.float32] = np.full(len(cache.samples), np.nan, dtype=np.float32)
        self.unreadable: set[int] = set()
        self._finished = self._changed = self._is_back = False
        self._start()

    @property
    def pending(self) -> NDArray[np.int64]:
        """Samples of the complete shards without a score, but for those with a fault; a broken image may have been made
        whole since."""
        return self._wanted[np.isnan(self.scores[self._wanted])]

    def add(self, ids: Sequence[int], scores: NDArray[np.float32]) -> None:
        """Enter scores. ScoreError for one that is not finite, when the others are entered."""
        finite = np.isfinite(scores)
        self.scores[np.asarray(ids, dtype=np.int64)[finite]] = scores[finite]
        self.unreadable -= set(ids)
        self._changed |= bool(finite.any())
        for position in np.flatnonzero(~finite):
            raise ScoreError(
                f"{self.name} gave {scores[position]} to sample {ids[int(position)]}: a score must be finite; "
                "look at that image and prompt"
            )

    def add_unreadable(self, samples: Iterable[int]) -> None:
        """Enter samples whose image is broken."""
        self._changed |= not self.unreadable.issuperset(samples)
        self.unreadable |= set(samples)

    def save(self) -> None:
        """Put what is new into the partial file, or everything into the finished one."""
        if not len(self._open()):
            self._finish()
        elif self._changed:
            write_partial_scores(
                self._cache.folder,
                self.name,
                self.scores,
                metadata=self._metadata,
                of=self._of,
                identity=self._cache.identity,
            )
            self._changed = False

    def _start(self) -> None:
        """Take over what was scored before, by this very evaluator."""
        if not is_stale(self._cache.folder, self._path(self.name)):
            for known in (self._kept, self._former):
                if known is not None and self._is_mine(known[1]):
                    self.scores[:], self._changed = known[0], known is not self._former
                    self._finished, self._is_back = known is self._former, known is self._kept
                    self.unreadable = unreadable_images(known[1]) if self._finished else set()
        identity = self._cache.identity
        partial = read_partial_scores(self._cache.folder, self.name, len(self.scores), self._of, identity)
        if partial is not None and self._is_mine(partial[1]):
            self.scores = np.where(np.isnan(self.scores), partial[0], self.scores)
        if len(self._open()):
            self._finished = False

    def _open(self) -> NDArray[np.int64]:
        pending = self.pending
        return pending[~np.isin(pending, list(self.unreadable))]

    def _finish(self) -> None:
        if not self._finished or self._changed:
            self._keep_former()
            broken = {UNREADABLE_IMAGES: ",".join(map(str, sorted(self.unreadable)))} if self.unreadable else {}
            ids = self._wanted[~np.isnan(self.scores[self._wanted])]
            metadata = self._metadata | broken
            write_scores(self._cache.folder, self.name, ids, self.scores[ids], metadata=metadata, of=self._of)
            if self._kept is not None:
                self._path(self._kept_name(self._metadata)).unlink(missing_ok=True)
            self._finished, self._changed = True, False
        partial = partial_path(self._cache.folder, self.name, self._of)
        if partial.exists():  # a cache that nobody may write into has none
            partial.unlink()

    def _keep_former(self) -> None:
        """Before the file is replaced: a copy of it under its own name, if another checkpoint made it."""
        if self._former is None:
            return
        scores, former = self._former
        digest = former.get("checkpoint_sha256", NONE)
        if digest not in (NONE, self._metadata["checkpoint_sha256"]):
            kept, ids = self._kept_name(former), np.flatnonzero(~np.isnan(scores))
            write_scores(self._cache.folder, kept, ids, scores[ids], metadata=former, of=self._of)
            back = "those of this checkpoint are back" if self._is_back else "another checkpoint is used"
            self.notes.append(f"{self.name}: {back}, the former scores are kept as {self._kept_name(former)}")
        self._former = None

    def _kept_name(self, metadata: dict[str, str]) -> str:
        return f"{self.name}@{'-'.join(each[:8] for each in metadata.get('checkpoint_sha256', NONE).split())}"

    def _path(self, name: str) -> Path:
        return scores_path(self._cache.folder, name, self._of)

    def _is_mine(self, metadata: dict[str, str]) -> bool:
        return self._metadata.items() <= metadata.items()

    def _read(self, name: str) -> tuple[NDArray[np.float32], dict[str, str]] | None:
        """Scores and metadata of a finished file, or None: there is none, or it is damaged and will be replaced."""
        folder, count = self._cache.folder, len(self._cache.samples)
        try:
            scores = read_scores(folder, name, count, self._of, identity=self._cache.identity)
            return scores, read_score_metadata(folder, name, self._of)
        except ScoreError:
            return None
