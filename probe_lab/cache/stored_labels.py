"""``Cache.labels``: altered captions of the training prompts, their text, and the scores under them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from probe_lab.cache.identity import Identity
from probe_lab.cache.label_files import AGAIN, CAPTIONS, Captions, LabelScores, read_captions, read_labels
from probe_lab.cache.layout import LabelsOf, captions_path, labelled, renoised_path, text_path
from probe_lab.cache.renoised import Renoised, RenoisedShard, stored_renoised
from probe_lab.cache.tensor_rows import TensorRows
from probe_lab.cache.text_table import read_text, text_metadata
from probe_lab.errors import CacheError


class StoredLabels:
    """The labels of one cache; each file is read when it is asked for. Most caches have none: see ``exist``."""

    def __init__(self, folder: Path, identity: Identity, pictures: Callable[[], pd.DataFrame]) -> None:
        """``pictures``: the samples of the cache that have one."""
        self._folder, self._identity, self._pictures = folder, identity, pictures

    @property
    def exist(self) -> bool:
        """Whether there are captions, and so perhaps labels."""
        return captions_path(self._folder).exists()

    @cached_property
    def stored_captions(self) -> Captions:
        """The captions with the settings that made them. Errors as in ``captions``."""
        return read_captions(self._folder, self._identity)

    @property
    def captions(self) -> pd.DataFrame:
        """One row per caption, ordered by ``prompt_id`` and ``caption`` (0: the prompt's own); ``prompt`` is its text
        and ``edit`` how it was altered ("" for the own one). Every training prompt has ``width`` rows.

        CacheError when the cache has no labels, or they are damaged or another's.
        """
        return self.stored_captions.table

    @property
    def width(self) -> int:
        """Captions of each prompt, its own included. Errors as in ``captions``."""
        return self.stored_captions.width

    @property
    def settings(self) -> Mapping[str, str]:
        """How the captions were made: ``alter``, ``seed``, ``split`` and so on. Errors as in ``captions``."""
        return self.stored_captions.settings

    def text(self, encoder: str) -> dict[str, Tensor]:
        """As ``Cache.text``, row r for row r of ``captions``.

        CacheError when it is missing, damaged, another's, or of other captions.
        """
        rows = self.text_rows(encoder)
        return {name: rows.whole(name) for name in rows.names}

    def text_rows(self, encoder: str) -> TensorRows:
        """The same, read row by row when it is asked for: FLUX has 8 MB of text per caption. Errors as in ``text``."""
        self._require_text(encoder)
        return read_text(self._folder, encoder, self._identity, len(self.captions), of_labels=True)

    def _require_text(self, encoder: str) -> None:
        """CacheError for text that, as far as it says, is not of these captions."""
        captions = self.stored_captions
        metadata = text_metadata(self._folder, encoder, self._identity, of_labels=True)
        if metadata is None or metadata.get(CAPTIONS) != captions.sha256:
            path = text_path(self._folder, encoder, of_labels=True)
            raise CacheError(
                f"{path} does not hold the text of the captions beside it: {AGAIN}, and text.encoder={encoder}"
            )

    @property
    def scored(self) -> dict[LabelsOf, list[str]]:
        """The evaluators that gave labels, for each step and, last, for "images"."""
        return labelled(self._folder)

    def scores(self, evaluator: str, of: LabelsOf) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """sample_id int64 [n] and scores float32 [n, ``width``] of what the x0 of a step decodes to, or of "images".

        Column c is the score under caption c of the sample's prompt. Only samples of training prompts are there, in
        their order, without those whose image is broken or no picture (``Cache.faults``).

        ScoreError when there are none (with the command), or they are damaged, another's, or of other captions.
        CacheError as in ``captions``.
        """
        labels = self._labels(evaluator, of)
        return labels.ids, labels.scores

    @property
    def renoised_counts(self) -> dict[int, int]:
        """How many shards hold pictures that were noised again, by the number of the noise, from 0."""
        return {number: len(shards) for number, shards in stored_renoised(self._folder).items()}

    def renoised(self, number: int = 0) -> Renoised:
        """The finished pictures of training prompts with one more fresh noise each, and what the denoiser made of them.

        CacheError when there are none or some are missing (with the command), or a file is damaged, another's, of other
        training prompts, or made by other settings than the rest.
        """
        shards = stored_renoised(self._folder).get(number)
        if not shards:
            raise CacheError(
                f"the cache {self._folder} has no pictures with fresh noise of number {number}: run `probe-lab score` "
                f"with labels.renoised={number + 1}, labels.steps and labels.images=true"
            )
        pictures = self._pictures()
        of_captions = pictures["prompt_id"].isin(self.captions["prompt_id"])
        wanted = sorted(pictures["shard"][of_captions].unique().tolist())
        missing = sorted(set(wanted) - set(shards))
        if missing:
            raise CacheError(
                f"{renoised_path(self._folder, number, missing[0])} is missing, {len(wanted) - len(missing)} of "
                f"{len(wanted)} such files are there: {AGAIN}"
            )
        return Renoised.of(
            RenoisedShard(self._folder, number, shard, self._identity, self.stored_captions) for shard in wanted
        )

    def score_metadata(self, evaluator: str, of: LabelsOf) -> Mapping[str, str]:
        """The evaluator's version, checkpoint and preprocessing, and what decoded the pictures. Errors as in
        ``scores``."""
        return self._labels(evaluator, of).metadata

    def digest(self, evaluator: str, of: LabelsOf) -> str:
        """SHA-256 of the scores that one evaluator gave, their samples and captions. Errors as in ``scores``."""
        labels = self._labels(evaluator, of)
        digest = hashlib.sha256(self.stored_captions.sha256.encode())
        for array in (labels.ids, labels.scores):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _labels(self, evaluator: str, of: LabelsOf) -> LabelScores:
        return read_labels(self._folder, evaluator, of, self._identity, self.stored_captions)
