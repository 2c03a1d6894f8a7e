"""`probe-lab cache verify`: what is wrong with a cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probe_lab.cache.files import leftovers
from probe_lab.cache.layout import (
    SAMPLES,
    PreviewOf,
    Sidecar,
    complete_shards,
    scored_previews,
    scores_folder,
    scores_path,
    sidecar_path,
    stems,
    text_path,
)
from probe_lab.cache.manifest import Manifest
from probe_lab.cache.problems import Problem, problem, runs
from probe_lab.cache.samples import read_samples, sample_problems
from probe_lab.cache.scores import IMPORTED, duplicate_rows, read_score_table, unreadable_images
from probe_lab.cache.tables import table_metadata
from probe_lab.cache.tensors import content_sha256, load_tensors
from probe_lab.cache.verify_shards import shard_problems
from probe_lab.errors import CacheError, ScoreError


@dataclass(frozen=True)
class _Samples:
    """sample_ids of each shard in row order, how many prompts and samples; from a table without a problem."""

    shards: dict[int, list[int]]
    prompts: int
    count: int


def verify(folder: Path | str) -> list[Problem]:
    """Everything that is wrong with a cache, by reading every byte of it; an empty list: nothing.

    Finds truncated, changed, missing and uncommitted files, duplicate samples, samples without scores, shapes
    that are not the manifest's, images that do not decode, leftovers of killed writers, and another format
    version (then only that).
    """
    folder = Path(folder)
    try:
        manifest = Manifest.load(folder)
    except CacheError as error:
        return [Problem("manifest.json", None, str(error))]
    problems: list[Problem] = []
    samples = _samples(folder, manifest, problems)
    complete = complete_shards(folder)
    for shard in sorted({*complete, *_shards_of(folder), *(samples.shards if samples else ())}):
        ids = samples.shards.get(shard, []) if samples else None
        problems += shard_problems(folder, manifest, shard, ids)
    faulty = _faulty(folder, samples, complete) if samples else set()
    for encoder in stems(folder / "text", ".safetensors"):
        problems += _text_problems(folder, encoder, samples.prompts if samples else None)
    for of in (None, *scored_previews(folder)):
        for evaluator in stems(scores_folder(folder, of), ".parquet"):
            problems += _score_problems(folder, evaluator, of, samples, complete, faulty)
    for path, abandoned in leftovers(folder):
        if abandoned:
            problems.append(problem(folder, path, "left by a killed writer: `probe-lab generate` removes it"))
    return problems


def _samples(folder: Path, manifest: Manifest, problems: list[Problem]) -> _Samples | None:
    try:
        table = read_samples(folder / SAMPLES)
    except CacheError as error:
        problems.append(Problem(SAMPLES, None, str(error)))
        return None
    found = [Problem(SAMPLES, row, message) for row, message in sample_problems(table)]
    if table.num_rows != manifest.count:
        found.append(Problem(SAMPLES, None, f"it has {table.num_rows} rows, the manifest counts {manifest.count}"))
    if found:
        problems += found
        return None
    frame = table.to_pandas()
    shards = {int(shard): list(rows["sample_id"]) for shard, rows in frame.groupby("shard")}
    return _Samples(shards, int(frame["prompt_id"].nunique()), len(frame))


def _faulty(folder: Path, samples: _Samples, complete: list[int]) -> set[int]:
    """Samples whose image is no picture: they are to have no score. A broken sidecar is a problem of its shard."""
    found: set[int] = set()
    for shard in complete:
        with contextlib.suppress(CacheError):
            rows = Sidecar.load(sidecar_path(folder, shard)).faults
            found |= {ids[row] for ids in [samples.shards.get(shard, [])] for row in rows if row < len(ids)}
    return found


def _shards_of(folder: Path) -> set[int]:
    names = stems(folder / "shards", ".safetensors") + stems(folder / "images", ".parquet")
    return {int(name) for name in names if name.isdigit()}


def _text_problems(folder: Path, encoder: str, prompts: int | None) -> Iterator[Problem]:
    path = text_path(folder, encoder)
    again = "delete it and run `probe-lab generate`"
    try:
        tensors, metadata = load_tensors(str(path))
    except CacheError as error:
        yield problem(folder, path, str(error))
        return
    if content_sha256(tensors) != metadata.get("sha256"):
        yield problem(folder, path, f"it changed since it was written (sha256 differs): {again}")
    for name, tensor in tensors.items():
        if prompts is not None and tensor.shape[:1] != (prompts,):
            yield problem(folder, path, f"{name} has the shape {tuple(tensor.shape)} for {prompts} prompts: {again}")


def _score_problems(
    folder: Path, evaluator: str, of: PreviewOf | None, samples: _Samples | None, complete: list[int], faulty: set[int]
) -> Iterator[Problem]:
    path = scores_path(folder, evaluator, of)
    try:
        table = read_score_table(folder, evaluator, of)
    except ScoreError as error:
        yield problem(folder, path, str(error))
        return
    ids, values = table.column("sample_id").to_numpy(), table.column("score").to_numpy()
    for row in duplicate_rows(ids):
        yield problem(folder, path, f"sample {ids[row]} is scored twice", int(row))
    for row in np.flatnonzero(~np.isfinite(values)):
        yield problem(folder, path, f"the score of sample {ids[row]} is {values[row]}", int(row))
    if samples is None:
        return
    for row in np.flatnonzero((ids < 0) | (ids >= samples.count)):
        yield problem(folder, path, f"sample {ids[row]} is not in the cache", int(row))
    metadata = table_metadata(table)
    if IMPORTED in metadata:
        return
    wanted = {sample for shard in complete for sample in samples.shards.get(shard, ())} - faulty
    for first, last in runs(sorted(wanted - set(ids.tolist()) - unreadable_images(metadata))):
        what = f"sample {first} has" if first == last else f"samples {first} to {last} have"
        key = f"probe.step={of.step} and probe.scalars=[{of.word}:" if of else "evaluators=["
        yield problem(folder, path, f"{what} no score: run `probe-lab score` with {key}{evaluator}]", first)
