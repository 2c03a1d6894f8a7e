"""Score the images of a cache: each is decoded once, and all evaluators see it in one pass."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from probe_lab.cache import Cache, write_scores
from probe_lab.errors import ScoreError
from probe_lab.evaluators.base import Evaluator, create, score_all

Progress = Callable[[int, int], None]
Scored = tuple[list[int], dict[str, NDArray[np.float32]]]
"""Sample ids of one batch, and their scores by evaluator."""


def score_cache(
    cache_folder: Path,
    evaluators: Sequence[str],
    *,
    batch_size: int = 64,
    overwrite: bool = False,
    workers: int = 0,
    on_progress: Progress | None = None,
) -> None:
    """Write ``scores/<evaluator>.parquet``, whole or not at all, with every sample of the complete shards.

    Evaluators that already have all those scores, with the same metadata (version, checkpoint,
    preprocessing), are skipped unless ``overwrite``. ``workers`` > 1 spawns that many processes, which score
    whole shards; each makes its own evaluators, so leave it at 0 when they share one accelerator.
    ``on_progress(done, total)`` counts images.

    Raises:
        ConfigError: an unknown evaluator.
        ScoreError: no complete shard, a prompt or an image that cannot be scored, or a score that is not
            finite.
    """
    asked = [create(name) for name in dict.fromkeys(evaluators)]
    cache = Cache(cache_folder)
    if not cache.manifest.has_images:
        raise ScoreError(
            f"the cache {cache_folder} holds no images (capture.images=false): generate it with capture.images=true, "
            "or import scores"
        )
    todo = [each for each in asked if overwrite or not _is_scored(cache, each)]
    total = len(cache.complete_samples)
    if not total:
        raise ScoreError(f"the cache {cache_folder} has no complete shard to score: run `probe-lab generate` first")
    if not todo:
        return
    ids: list[int] = []
    parts: dict[str, list[NDArray[np.float32]]] = {each.name: [] for each in todo}
    for batch_ids, batch_scores in _scored(cache, todo, batch_size, workers):
        ids += batch_ids
        for name, scores in batch_scores.items():
            parts[name].append(scores)
        if on_progress:
            on_progress(len(ids), total)
    for each in todo:
        write_scores(cache.folder, each.name, ids, np.concatenate(parts[each.name]), metadata=each.metadata())


def _is_scored(cache: Cache, evaluator: Evaluator) -> bool:
    if evaluator.name not in cache.evaluators():
        return False
    try:
        scores = cache.scores(evaluator.name)
        stored = cache.score_metadata(evaluator.name)
    except ScoreError:  # damaged, or of another cache: scoring again is the remedy
        return False
    current = evaluator.metadata().items() <= stored.items()
    return current and bool(np.isfinite(scores[cache.complete_samples["sample_id"]]).all())


def _scored(cache: Cache, evaluators: Sequence[Evaluator], batch_size: int, workers: int) -> Iterator[Scored]:
    if workers <= 1:
        for shard in cache.shards:
            yield from _score_shard(cache, shard, evaluators, batch_size)
        return
    names = [each.name for each in evaluators]
    # spawn: a forked child would inherit torch's thread pools in an unknown state.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_score_shard_apart, cache, shard, names, batch_size) for shard in cache.shards]
        try:
            for job in as_completed(jobs):
                yield from job.result()
        except BrokenProcessPool as error:
            raise ScoreError("a scoring process died (killed, or out of memory): run the same command again") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _score_shard_apart(cache: Cache, shard: int, names: Sequence[str], batch_size: int) -> list[Scored]:
    """One worker's job."""
    return list(_score_shard(cache, shard, [create(name) for name in names], batch_size))


def _score_shard(cache: Cache, shard: int, evaluators: Sequence[Evaluator], batch_size: int) -> Iterator[Scored]:
    rows = cache.samples[cache.samples["shard"] == shard]
    prompts = dict(zip(rows["sample_id"], rows["prompt"], strict=True))
    stream = cache.iter_images(shard)
    while batch := list(islice(stream, batch_size)):
        ids = [sample for sample, _ in batch]
        images = [_decode(sample, data) for sample, data in batch]
        found = score_all(evaluators, images, [prompts[sample] for sample in ids])
        scores = {name: values.numpy().astype(np.float32) for name, values in found.items()}
        for name, values in scores.items():
            _require_finite(name, ids, values)
        yield ids, scores


def _decode(sample: int, data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except OSError as error:
        raise ScoreError(
            f"the image of sample {sample} cannot be decoded ({error}): `probe-lab cache verify` lists what is damaged"
        ) from error
    return image


def _require_finite(name: str, ids: Sequence[int], values: NDArray[np.float32]) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ScoreError(
            f"{name} gave {values[bad[0]]} to sample {ids[bad[0]]}: a score must be finite; "
            "look at that image and prompt"
        )
