"""`probe-lab cache verify`: what is wrong with a cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from probe_lab.cache.files import leftovers
from probe_lab.cache.identity import CACHE, TEXTS, Identity, cache_id
from probe_lab.cache.layout import (
    FOLDERS,
    PREVIEWED,
    SAMPLES,
    PreviewOf,
    Sidecar,
    complete_shards,
    is_number,
    numbers,
    scored_previews,
    scores_folder,
    scores_path,
    sidecar_path,
    stems,
    text_path,
)
from probe_lab.cache.manifest import Manifest
from probe_lab.cache.opened import objections
from probe_lab.cache.problems import Problem, problem, runs
from probe_lab.cache.samples import read_samples, sample_problems, to_frame
from probe_lab.cache.scores import CHANGED, IMPORTED, duplicate_rows, has_changed, read_score_table, unreadable_images
from probe_lab.cache.tables import table_metadata
from probe_lab.cache.tensor_rows import TensorRows
from probe_lab.cache.text_table import AGAIN
from probe_lab.cache.verify_judges import judge_problems
from probe_lab.cache.verify_labels import label_problems
from probe_lab.cache.verify_shards import shard_problems
from probe_lab.errors import CacheError, ScoreError


@dataclass(frozen=True)
class _Samples:
    """sample_ids of each shard in row order, how many prompts and samples, the encoders whose text belongs to the
    cache, and the prompt of each sample; from a table whose rows are in order. ``identity``: None where they are not
    the manifest's."""

    shards: dict[int, list[int]]
    prompts: int
    count: int
    identity: Identity | None
    texts: tuple[str, ...]
    prompt_of: list[int]


def verify(folder: Path | str) -> list[Problem]:
    """Everything that is wrong with a cache, by reading every byte of it; an empty list: nothing.

    Finds truncated, changed, missing and uncommitted files, files of another cache or in another's place, duplicate
    samples, samples without scores, shapes that are not the manifest's, images that do not decode, files that are none
    of a cache, leftovers of killed writers, and another format version (then only that).
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
        problems += shard_problems(folder, manifest, shard, ids, samples.identity if samples else None)
    faulty = _faulty(folder, samples, complete) if samples else set()
    for encoder in dict.fromkeys((*(samples.texts if samples else ()), *stems(folder / "text", ".safetensors"))):
        problems += _text_problems(folder, encoder, samples)
    for of in (None, *scored_previews(folder)):
        for evaluator in stems(scores_folder(folder, of), ".parquet"):
            problems += _score_problems(folder, evaluator, of, samples, complete, faulty)
    if samples:
        wanted = {sample for shard in complete for sample in samples.shards.get(shard, ())} - faulty
        problems += label_problems(folder, samples.identity, samples.prompt_of, wanted)
        problems += judge_problems(folder, samples.identity, len(samples.prompt_of), wanted)
    problems += [problem(folder, path, "is no file of a cache: move it elsewhere") for path in _strangers(folder)]
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
    frame, metadata = to_frame(table), table_metadata(table)
    own = Identity(cache_id(manifest, frame), carried=CACHE in metadata)
    found = [Problem(SAMPLES, None, f"it {objection}") for objection in objections(manifest, frame, metadata, own)]
    problems += found
    shards: dict[int, list[int]] = {}
    for shard, sample in zip(frame["shard"].tolist(), frame["sample_id"].tolist(), strict=True):
        shards.setdefault(shard, []).append(sample)
    # Beside samples that are another cache's, every other file would seem to be.
    identity = None if found else own
    texts = tuple(filter(None, metadata.get(TEXTS, "").split(",")))
    prompt_of = frame["prompt_id"].tolist()
    return _Samples(shards, len(set(prompt_of)), len(frame), identity, texts, prompt_of)


def _faulty(folder: Path, samples: _Samples, complete: list[int]) -> set[int]:
    """Samples whose image is no picture: they are to have no score. A broken sidecar is a problem of its shard."""
    found: set[int] = set()
    for shard in complete:
        with contextlib.suppress(CacheError):
            rows = Sidecar.load(sidecar_path(folder, shard)).faults
            found |= {ids[row] for ids in [samples.shards.get(shard, [])] for row in rows if row < len(ids)}
    return found


def _shards_of(folder: Path) -> set[int]:
    return {*numbers(folder / "shards", ".safetensors"), *numbers(folder / "images", ".parquet")}


def _strangers(folder: Path) -> list[Path]:
    """Files among those of a cache that no reader knows; hidden ones are not counted."""
    expected: dict[Path, tuple[str, ...]] = {folder / name: () for name in FOLDERS}
    expected |= {folder / "shards": (".safetensors", ".json"), folder / "images": (".parquet",)}
    found = [
        path
        for place, suffixes in expected.items()
        if suffixes
        for path in sorted(place.glob("*"))
        if path.suffix not in suffixes or not is_number(path.stem) or path.stem != f"{int(path.stem):05d}"
    ]
    found += [path for path in sorted((folder / "text").glob("*")) if path.suffix not in (".safetensors", ".partial")]
    scored = (".parquet", ".partial")
    found += [path for path in sorted((folder / "scores").glob("*")) if path.suffix not in scored]
    for step in sorted((folder / "previews").glob("*")):
        if not is_number(step.name):
            found.append(step)
            continue
        files = [*step.glob("*"), *(path for latent in PREVIEWED for path in (step / latent).glob("*"))]
        found += [path for path in sorted(files) if path.suffix not in scored and path.name not in PREVIEWED]
    return [path for path in found if not path.name.startswith(".")]


def _text_problems(folder: Path, encoder: str, samples: _Samples | None) -> Iterator[Problem]:
    path = text_path(folder, encoder)
    if not path.exists():
        yield problem(folder, path, "the file is missing: run `probe-lab generate`, which writes it")
        return
    try:
        TensorRows(folder, path, *((samples.identity, samples.prompts) if samples else (None, None)), again=AGAIN)
    except CacheError as error:
        yield problem(folder, path, str(error))


def _score_problems(
    folder: Path, evaluator: str, of: PreviewOf | None, samples: _Samples | None, complete: list[int], faulty: set[int]
) -> Iterator[Problem]:
    path = scores_path(folder, evaluator, of)
    try:
        table = read_score_table(folder, evaluator, of, identity=samples.identity if samples else None)
    except ScoreError as error:
        yield problem(folder, path, str(error))
        return
    found = list(_row_problems(folder, path, table, evaluator, of, samples, complete, faulty))
    if not found and has_changed(table):
        yield problem(folder, path, f"it {CHANGED}")
    yield from found


def _row_problems(
    folder: Path,
    path: Path,
    table: pa.Table,
    evaluator: str,
    of: PreviewOf | None,
    samples: _Samples | None,
    complete: list[int],
    faulty: set[int],
) -> Iterator[Problem]:
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
