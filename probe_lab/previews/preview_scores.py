"""Scores of the previews of a whole cache, made once: what a probe with ``preview:<evaluator>`` or
``lookahead:<evaluator>`` reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_lab.cache import Cache
from probe_lab.cache.layout import TINY, AskedPreviews, PreviewOf, scores_path
from probe_lab.cache.overwriting import overwriting
from probe_lab.config import Experiment
from probe_lab.engines import Site
from probe_lab.errors import ScoreError
from probe_lab.evaluators.lacking import by_shard, passes
from probe_lab.evaluators.ledger_scoring import score_into
from probe_lab.evaluators.score_ledger import ScoreLedger
from probe_lab.previews.decoding import Previewer, preview_evaluator, preview_scorer
from probe_lab.previews.tiny_decoder import tiny_identity
from probe_lab.progress import OnProgress

MADE_BY = "1"
"""Raised whenever a latent may decode to another picture."""
_Column = tuple[PreviewOf, str]
"""With the evaluator that scores them."""
_AT_ONCE = 128
"""Samples of one job."""


@dataclass(frozen=True)
class _Work:
    """Previews of neighbouring rows of one shard, which these evaluators have not scored."""

    of: PreviewOf
    evaluators: tuple[str, ...]
    ids: NDArray[np.int64]


def score_previews(
    experiment: Experiment,
    asked: AskedPreviews,
    *,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> list[str]:
    """Write ``previews/<step>/<evaluator>.parquet``, or that in ``previews/<step>/lookahead`` or ``tiny``, for every
    step and latent and its evaluators, each whole or not at all.

    That latent of every sample of the complete shards is decoded once, and all of its evaluators see the picture. What
    is there by the same evaluator (version, checkpoint, preprocessing) and decoder is not made again unless
    ``overwrite``; an interrupted call is continued by the same one. ``experiment.workers`` processes share the cores
    where nothing runs on a card and no evaluator has a model. ``on_progress(done, total)`` counts scores.

    Returns:
        What was done, a line for people per step and latent, and what became of former scores.

    Raises:
        CacheError: there is no such cache, or no such latent of a step in it.
        ConfigError, ScoreError: an evaluator or a tiny autoencoder that is not there, an evaluator whose scores were
            imported; a score that is not finite; or a process that died.
    """
    cache = Cache(experiment.cache_folder)
    decoders = {of.latent: _decoder(experiment, cache, of.latent) for of in asked}
    with overwriting(cache.folder, preview_files(cache.folder, asked), asked=overwrite):
        ledgers = {
            (of, name): ScoreLedger(
                cache,
                preview_evaluator(name, experiment.scoring),
                of=of,
                made_by={"preview": MADE_BY, "decoder": decoders[of.latent]},
            )
            for of, names in asked.items()
            for name in dict.fromkeys(names)
        }
        pending = {column for column, ledger in ledgers.items() if len(ledger.pending)}
        for of, _ in pending:
            cache.read(of.array, cache.shards[0] if cache.shards else 0, slice(0, 0))  # refused before work
        try:
            _score(experiment, cache, ledgers, on_progress or (lambda done, total: None))
        finally:
            for ledger in ledgers.values():
                ledger.save()
    lines = []
    for of, names in asked.items():
        made = [name for name in names if (of, name) in pending]
        before = [name for name in names if (of, name) not in pending]
        told = [f"{what}: {', '.join(which)}" for what, which in (("scored", made), ("scored before", before)) if which]
        lines.append(f"{of.word}s at step {of.step}: {'; '.join(told)}")
    return [*lines, *(note for ledger in ledgers.values() for note in ledger.notes)]


def preview_files(folder: Path, asked: AskedPreviews) -> list[Path]:
    """Where the scores are kept."""
    return [scores_path(folder, name, of) for of, names in asked.items() for name in names]


def _decoder(experiment: Experiment, cache: Cache, preview: str) -> str:
    dtype = experiment.sampling.dtype
    return (
        tiny_identity(experiment.scoring.preview_decoder, dtype)
        if preview == TINY
        else (f"{cache.manifest.backbone} {dtype}")
    )


def _score(
    experiment: Experiment, cache: Cache, ledgers: Mapping[_Column, ScoreLedger], on_progress: OnProgress
) -> None:
    def enter(part: _Work, scores: NDArray[np.float32]) -> int:
        _require_finite(part, scores)
        for name, values in zip(part.evaluators, scores.T, strict=True):
            ledgers[part.of, name].add(part.ids.tolist(), values)
        return scores.size

    score_into(
        ledgers.values(),
        list(_work(cache, ledgers)),
        partial(PreviewWorker, experiment, cache),
        enter,
        experiment=experiment,
        total=len(cache.picture_samples) * len(ledgers),
        on_progress=on_progress,
    )


def _require_finite(part: _Work, scores: NDArray[np.float32]) -> None:
    """ScoreError for latents that decode to no picture."""
    broken = part.ids[~np.isfinite(scores).all(1)]
    if len(broken):
        raise ScoreError(
            f"the {part.of.word} of sample {broken[0]} at step {part.of.step} decodes to NaN or infinity "
            f"({len(broken)} of {len(part.ids)}): decode with sampling.dtype=float32 or bfloat16"
        )


def _work(cache: Cache, ledgers: Mapping[_Column, ScoreLedger]) -> Iterator[_Work]:
    """What is not scored."""
    for of in dict.fromkeys(of for of, _ in ledgers):
        for members, lacking in passes([ledger for (each, _), ledger in ledgers.items() if each == of]):
            for samples in by_shard(cache, lacking):
                for start in range(0, len(samples), _AT_ONCE):
                    names = tuple(evaluator.name for evaluator in members)
                    yield _Work(of, names, samples[start : start + _AT_ONCE])


class PreviewWorker:
    """Decodes and scores latents with a decoder of its own."""

    def __init__(self, experiment: Experiment, cache: Cache, site: Site) -> None:
        self._preview, self._cache = preview_scorer(experiment), cache

    def do(self, task: _Work) -> NDArray[np.float32]:
        """A numpy array: a tensor would travel as a file descriptor."""
        scores: NDArray[np.float32] = _scored(self._preview, self._cache, task).numpy()
        return scores


def _scored(preview: Previewer, cache: Cache, part: _Work) -> Tensor:
    rows = cache.samples.iloc[part.ids]
    places = rows["row"].to_numpy()
    first, last = int(places.min()), int(places.max())
    clean = cache.read(part.of.array, int(rows["shard"].iloc[0]), slice(first, last + 1))
    latents, prompts = clean[torch.from_numpy(places - first)].float(), rows["prompt"].tolist()
    return preview(latents, prompts, part.evaluators, tiny=part.of.latent == TINY).float()
