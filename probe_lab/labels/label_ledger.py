"""What one evaluator has labelled of the pictures of one step, or of the images: in memory and in its files."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from probe_lab.cache import Cache
from probe_lab.cache.label_files import CAPTIONS, Captions, LabelScores, read_labels, write_labels
from probe_lab.cache.layout import LabelsOf, labels_path
from probe_lab.cache.overwriting import is_stale
from probe_lab.cache.scores import UNREADABLE_IMAGES
from probe_lab.errors import ScoreError
from probe_lab.evaluators import Evaluator


class LabelLedger:
    """``save`` keeps what there is: in a partial file, or in the finished one once every sample has its scores.

    Scores of another evaluator, decoder or caption are not continued, and are replaced.

    Attributes:
        ids: the samples that are to be labelled, int64 [n] in order.
        scores: float32 [n, 1 + C], NaN where there are none.
    """

    def __init__(
        self,
        cache: Cache,
        captions: Captions,
        evaluator: Evaluator,
        of: LabelsOf,
        ids: NDArray[np.int64],
        *,
        made_by: Mapping[str, str],
    ) -> None:
        self.evaluator, self.of, self.ids = evaluator, of, ids
        self.scores: NDArray[np.float32] = np.full((len(ids), captions.width), np.nan, dtype=np.float32)
        self._cache, self._captions = cache, captions
        self._metadata = evaluator.metadata() | dict(made_by) | {CAPTIONS: captions.sha256}
        self._unreadable: set[int] = set()
        self._changed = False
        if not is_stale(cache.folder, labels_path(cache.folder, evaluator.name, of)):
            self._take_over(partial=False)
        self._take_over(partial=True)

    @property
    def pending(self) -> NDArray[np.int64]:
        """Samples without scores, but for those whose image is broken."""
        ids = self.ids[np.isnan(self.scores).any(1)]
        return ids[~np.isin(ids, list(self._unreadable))]

    def add(self, ids: NDArray[np.int64], scores: NDArray[np.float32], unreadable: Collection[int] = ()) -> None:
        """Enter scores [k, 1 + C] of samples, some of which may be ``unreadable``.

        ScoreError for another one whose scores are not finite.
        """
        broken = ids[~np.isfinite(scores).all(1) & ~np.isin(ids, list(unreadable))]
        if len(broken):
            raise ScoreError(
                f"{self.evaluator.name} gave sample {broken[0]} a score that is not finite under one of its captions: "
                "look at that picture and at labels/captions.parquet"
            )
        self.scores[np.searchsorted(self.ids, ids)] = scores
        self._unreadable |= set(unreadable)
        self._changed = True

    def save(self) -> None:
        """Write what is new."""
        finished = not len(self.pending)
        if self._changed:
            self._write(partial=not finished)
            self._changed = False
        partial = labels_path(self._cache.folder, self.evaluator.name, self.of, partial=True)
        if finished and partial.exists():  # a cache that nobody may write into has none
            partial.unlink()

    def _take_over(self, *, partial: bool) -> None:
        """What the same evaluator has scored under the same captions."""
        folder, identity = self._cache.folder, self._cache.identity
        try:
            stored = read_labels(folder, self.evaluator.name, self.of, identity, self._captions, partial=partial)
        except ScoreError:  # none, or not these
            return
        if not self._metadata.items() <= stored.metadata.items():
            return
        ours = np.isin(stored.ids, self.ids)
        self.scores[np.searchsorted(self.ids, stored.ids[ours])] = stored.scores[ours]
        self._unreadable |= stored.unreadable
        self._changed |= partial

    def _write(self, *, partial: bool) -> None:
        there = ~np.isnan(self.scores).any(1)
        unreadable = {UNREADABLE_IMAGES: ",".join(map(str, sorted(self._unreadable)))} if self._unreadable else {}
        labels = LabelScores(self.ids[there], self.scores[there], self._metadata | unreadable)
        folder, identity = self._cache.folder, self._cache.identity
        write_labels(folder, self.evaluator.name, self.of, labels, identity, partial=partial)
