"""Noise the finished training pictures of a cache again, and store what the denoiser makes of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probe_lab.backbones.pipelines import load_pipeline
from probe_lab.cache import Cache, require_same
from probe_lab.cache.files import disk_errors
from probe_lab.cache.label_files import Captions
from probe_lab.cache.layout import renoised_folder, renoised_path
from probe_lab.cache.overwriting import is_stale
from probe_lab.cache.renoised import PROMPTS, RenoisedShard, stored_renoised, write_renoised
from probe_lab.cache.scores import UNREADABLE_IMAGES
from probe_lab.config import Experiment
from probe_lab.engines import Site, deaths_as, open_pool
from probe_lab.errors import CacheError, ScoreError
from probe_lab.evaluators.decode import decoded
from probe_lab.evaluators.score_worker import AGAIN
from probe_lab.generation.fill import manifest_of
from probe_lab.generation.generate import reported
from probe_lab.generation.generation_worker import generation_workers
from probe_lab.labels.renoising import MADE_BY, noise_of, renoised_x0
from probe_lab.processes import terminated_as_interrupt
from probe_lab.progress import Watching


@dataclass(frozen=True)
class RenoiseTask:
    """The pictures of a shard, with the fresh noise of a number."""

    number: int
    shard: int


def make_renoised(experiment: Experiment, cache: Cache, captions: Captions, *, watching: Watching) -> Iterator[str]:
    """Write ``labels/renoised/<number>/<shard>.safetensors`` for ``labels.renoised`` numbers from 0, and tell so.

    Only pictures of the prompts that have ``captions`` are noised again, which are training prompts. A file is whole or
    not at all; what is there by the same settings is not made again. ``workers`` processes, or cards, share the files,
    as in ``generate``. Afterwards, all that are there were made by the same settings: others, of higher numbers say,
    are deleted.

    Raises:
        CacheError: the experiment is not the cache's, an x0 does not fit the dtype of the cache, or a file cannot be
            written.
        CaptureError: the backbone cannot be loaded, or its pictures cannot be noised.
        ScoreError: a process died.
    """
    wanted = manifest_of(experiment, cache.manifest.taps, cache.samples)
    require_same(cache.folder, cache.manifest.renamed(wanted.name), wanted)
    pictures = _pictures(cache, captions)
    made_by = renoised_settings(experiment, cache, captions)
    tasks = [
        RenoiseTask(number, shard)
        for number in range(experiment.labels.renoised)
        for shard in sorted(pictures["shard"].unique().tolist())
    ]
    pending = [task for task in tasks if not _is_made(cache, captions, task, pictures, made_by)]
    if pending:
        _make(experiment, pictures, pending, len(pictures) * experiment.labels.renoised, watching)
    for number, shards in stored_renoised(cache.folder).items():
        for other in (RenoiseTask(number, shard) for shard in shards):
            if other not in tasks and not _is_made(cache, captions, other, pictures, made_by):
                path = renoised_path(cache.folder, number, other.shard)
                with disk_errors(path):
                    path.unlink()
    yield (
        f"{len(pictures)} pictures noised again {experiment.labels.renoised} times at steps {made_by['steps']}: "
        f"{'made' if pending else 'made before'} ({renoised_folder(cache.folder)})"
    )


def _make(
    experiment: Experiment, pictures: pd.DataFrame, pending: list[RenoiseTask], total: int, watching: Watching
) -> None:
    sizes = pictures["shard"].value_counts()
    spec = replace(
        generation_workers(experiment, len(pending)),
        make=partial(RenoiseWorker, experiment),
        called="a process that noises pictures again",
    )
    done = total - sum(int(sizes[task.shard]) for task in pending)
    deaths = deaths_as(ScoreError, AGAIN)
    # The workers first: while there is no other thread, that of a display for instance, they can be forked.
    with (
        terminated_as_interrupt(),
        deaths,
        open_pool(experiment.engine, spec) as pool,
        watching("noise again", "pictures") as update,
    ):
        update(done, total)
        for count in reported(pool, pending):
            done += count
            update(done, total)


def renoised_settings(experiment: Experiment, cache: Cache, captions: Captions) -> dict[str, str]:
    """All that decides the x0 of a sample, beside the cache and the number of its noise."""
    return {
        "steps": ", ".join(map(str, sorted(experiment.labels.steps))),
        "seed": str(experiment.seed),
        "backbone": f"{cache.manifest.backbone} {experiment.sampling.dtype}",
        "made_by": MADE_BY,
        PROMPTS: captions.prompts_sha256,
    }


def _pictures(cache: Cache, captions: Captions) -> pd.DataFrame:
    """The samples whose pictures are noised again."""
    samples = cache.picture_samples
    return samples[samples["prompt_id"].isin(captions.table["prompt_id"])]


def _is_made(
    cache: Cache, captions: Captions, task: RenoiseTask, pictures: pd.DataFrame, made_by: Mapping[str, str]
) -> bool:
    """Whether the file is there, whole, by the same settings and of the same samples."""
    path = renoised_path(cache.folder, task.number, task.shard)
    if not path.exists() or is_stale(cache.folder, path):
        return False
    try:
        stored = RenoisedShard(cache.folder, task.number, task.shard, cache.identity, captions)
    except CacheError:  # damaged, or of other prompts: it is made again
        return False
    ids = pictures["sample_id"][pictures["shard"] == task.shard]
    there = made_by.items() <= stored.metadata.items()
    return there and {*stored.ids.tolist(), *stored.unreadable} == set(ids.tolist())


class RenoiseWorker:
    """One pipeline, which writes whole files."""

    def __init__(self, experiment: Experiment, site: Site) -> None:
        sampling = replace(experiment.sampling, device=site.device(experiment.sampling.device))
        self._experiment, self._sampling = experiment, sampling
        self._pipe = load_pipeline(experiment.backbone, sampling)
        self._cache = Cache(experiment.cache_folder)

    def do(self, task: RenoiseTask) -> Generator[int]:
        """Yields the pictures of each batch."""
        cache = self._cache
        captions = cache.labels.stored_captions
        pictures = _pictures(cache, captions)
        samples = pictures[pictures["shard"] == task.shard].reset_index(drop=True)
        ids = samples["sample_id"].to_numpy()
        noises = [
            noise_of(self._experiment.seed, prompt, sample, task.number, self._experiment.labels.steps)
            for prompt, sample in zip(samples["prompt_id"].tolist(), ids.tolist(), strict=True)
        ]
        steps = np.array([noise.step for noise in noises], dtype=np.int64)
        x0 = torch.empty((len(ids), *cache.manifest.shape(f"{steps[0]}/x0")), dtype=cache.manifest.array_dtype)
        readable = np.ones(len(ids), dtype=bool)
        size = self._sampling.batch_size
        for step in np.unique(steps).tolist():
            places = np.flatnonzero(steps == step)
            for start in range(0, len(places), size):
                rows = places[start : start + size]
                readable[rows] = self._fill(x0, samples, [noise.seed for noise in noises], rows, step)
                yield len(rows)
        metadata = renoised_settings(self._experiment, cache, captions)
        if not readable.all():
            metadata[UNREADABLE_IMAGES] = ",".join(map(str, ids[~readable].tolist()))
        kept = torch.from_numpy(readable)
        write_renoised(
            cache.folder, task.number, task.shard, ids[readable], steps[readable], x0[kept], metadata, cache.identity
        )

    def _fill(self, x0: Tensor, samples: pd.DataFrame, seeds: list[int], rows: np.ndarray, step: int) -> list[bool]:
        """Enter the predictions of some rows; which of them have a picture that can be read."""
        stored = [self._cache.image(sample) for sample in samples["sample_id"].iloc[rows].tolist()]
        images = [decoded(data, self._cache.manifest.pixels) for data in stored]
        there = [row for row, image in zip(rows.tolist(), images, strict=True) if image is not None]
        if there:
            readable = [image for image in images if image is not None]
            own = [seeds[row] for row in there]
            made = renoised_x0(self._sampling, self._pipe, samples.iloc[there], readable, own, step)
            x0[there] = made.to(x0.dtype)
        return [image is not None for image in images]
