"""What is wrong with the labels of a cache."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from probe_lab.cache.identity import Identity
from probe_lab.cache.label_files import CAPTIONS, Captions, read_captions, read_labels
from probe_lab.cache.layout import (
    FINISHED,
    LABELS,
    LabelsOf,
    captions_path,
    is_number,
    labelled,
    labels_path,
    renoised_folder,
    stems,
)
from probe_lab.cache.problems import Problem, problem, runs
from probe_lab.cache.tensor_rows import TensorRows
from probe_lab.cache.tensors import OpenFile
from probe_lab.cache.text_table import AGAIN
from probe_lab.cache.verify_renoised import renoised_problems
from probe_lab.errors import CacheError, ScoreError

_AGAIN = "run `probe-lab score` again"


def label_problems(
    folder: Path, identity: Identity | None, prompt_of: Sequence[int], wanted: Collection[int]
) -> Iterator[Problem]:
    """``prompt_of``: the prompt of each sample; ``wanted``: the samples that may have scores. An ``identity`` of None,
    of samples that are not the manifest's, is not compared."""
    if not captions_path(folder).exists():
        return
    yield from (problem(folder, path, "is no file of a cache: move it elsewhere") for path in _strangers(folder))
    try:
        captions = read_captions(folder, identity)
    except CacheError as error:
        yield problem(folder, captions_path(folder), str(error))
        return
    for encoder in stems(folder / LABELS / "text", ".safetensors"):
        yield from _text_problems(folder, folder / LABELS / "text" / f"{encoder}.safetensors", identity, captions)
    labelled_prompts = set(captions.table["prompt_id"].tolist())
    samples = {sample for sample in wanted if prompt_of[sample] in labelled_prompts}
    for of, evaluators in labelled(folder).items():
        for evaluator in evaluators:
            yield from _score_problems(folder, evaluator, of, identity, captions, samples)
    yield from renoised_problems(folder, identity, captions, samples)


def _text_problems(folder: Path, path: Path, identity: Identity | None, captions: Captions) -> Iterator[Problem]:
    try:
        if OpenFile(str(path)).header.metadata.get(CAPTIONS) != captions.sha256:
            yield problem(folder, path, f"it is of other captions than those of {LABELS}/captions.parquet: {_AGAIN}")
        else:
            TensorRows(folder, path, identity, len(captions.table), again=AGAIN)
    except CacheError as error:
        yield problem(folder, path, str(error))


def _score_problems(
    folder: Path, evaluator: str, of: LabelsOf, identity: Identity | None, captions: Captions, samples: set[int]
) -> Iterator[Problem]:
    path = labels_path(folder, evaluator, of)
    try:
        labels = read_labels(folder, evaluator, of, identity, captions)
    except ScoreError as error:
        yield problem(folder, path, str(error))
        return
    for row in np.flatnonzero(~np.isfinite(labels.scores).all(1)):
        yield problem(folder, path, f"a score of sample {labels.ids[row]} is not finite", int(row))
    if (np.diff(labels.ids) <= 0).any():
        yield problem(folder, path, f"its samples are not in order, or one is there twice: {_AGAIN}")
    for first, last in runs(sorted(samples - set(labels.ids.tolist()) - labels.unreadable)):
        what = f"sample {first} has" if first == last else f"samples {first} to {last} have"
        yield problem(folder, path, f"{what} no labels: {_AGAIN}", first)


def _strangers(folder: Path) -> list[Path]:
    """Files among the labels that no reader knows; hidden ones are not counted."""
    folders = (folder / LABELS, renoised_folder(folder))
    own = (captions_path(folder), renoised_folder(folder))
    places = [path for parent in folders for path in sorted(parent.glob("*")) if path not in own]
    known = [path for path in places if path.name in ("text", FINISHED) or is_number(path.name)]
    inside = [path for place in known for path in sorted(place.glob("*"))]
    found = [path for path in places if path not in known]
    found += [path for path in inside if path.suffix not in (".safetensors", ".partial")]
    return [path for path in found if not path.name.startswith(".")]
