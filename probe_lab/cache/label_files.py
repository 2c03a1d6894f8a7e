"""labels/: altered captions of the training prompts, and the scores of training pictures under all of them.

``captions.parquet`` has a row for each caption of each prompt, caption 0 being the prompt itself; in that order stand
the rows of ``text/<encoder>.safetensors``. ``<step>/<evaluator>.safetensors`` and ``images/<evaluator>.safetensors``
hold ``sample_id`` int64 [n] and ``scores`` float32 [n, 1 + C]; what is so far stands in ``.partial`` beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch

from probe_lab.cache.files import make_folder
from probe_lab.cache.identity import CONTENT, Identity, callers
from probe_lab.cache.layout import LabelsOf, captions_path, labels_path
from probe_lab.cache.scores import unreadable_images
from probe_lab.cache.tables import UNREADABLE, read_table, table_metadata, write_table
from probe_lab.cache.tensor_files import tensor_file_objection, write_tensor_file
from probe_lab.cache.tensors import load_tensors
from probe_lab.errors import CacheError, ScoreError

CAPTIONS = "captions_sha256"
"""Metadata key of text and scores: the captions that they are of."""
AGAIN = "run `probe-lab score` again, with the experiment's labels"
_SCHEMA = pa.schema(
    [("prompt_id", pa.int64()), ("caption", pa.int64()), ("prompt", pa.string()), ("edit", pa.string())]
)


@dataclass(frozen=True, eq=False)
class Captions:
    """The captions of a cache: ``table`` as in the file, sorted by prompt_id and caption, and the ``settings`` that
    made them."""

    table: pd.DataFrame
    settings: Mapping[str, str]

    @property
    def width(self) -> int:
        """Captions of each prompt, its own included."""
        return int(self.table["caption"].max()) + 1 if len(self.table) else 1

    @property
    def sha256(self) -> str:
        """Of prompts and captions, whatever made them."""
        digest = hashlib.sha256(self.table[["prompt_id", "caption"]].to_numpy("<i8").tobytes())
        digest.update("\0".join(self.table["prompt"]).encode())
        return digest.hexdigest()

    @property
    def prompts_sha256(self) -> str:
        """Of which prompts have captions."""
        return hashlib.sha256(self.table["prompt_id"].unique().astype("<i8").tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class LabelScores:
    """``scores`` float32 [n, 1 + C] of the samples ``ids`` int64 [n], in their order. ``unreadable`` samples have none,
    since their image is broken."""

    ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    metadata: Mapping[str, str]

    @property
    def unreadable(self) -> set[int]:
        return unreadable_images(self.metadata)


def write_captions(folder: Path, captions: Captions, identity: Identity) -> None:
    """Replace the captions, whole or not at all. CacheError when they cannot be written."""
    path = captions_path(folder)
    marked = {**captions.settings, **identity.marks(path.relative_to(folder).as_posix())}
    marked[CONTENT] = _content(captions, marked)
    make_folder(path.parent)
    table = pa.Table.from_pandas(captions.table, schema=_SCHEMA, preserve_index=False)
    write_table(path, table.replace_schema_metadata(marked))


def read_captions(folder: Path, identity: Identity | None) -> Captions:
    """CacheError when there are none, or they are damaged or another cache's (not compared without an ``identity``)."""
    path = captions_path(folder)
    if not path.exists():
        raise CacheError(
            f"the cache {folder} has no labels: run `probe-lab score` with labels.captions=8 and labels.steps or "
            "labels.images"
        )
    try:
        table = read_table(path)
    except UNREADABLE as error:
        raise CacheError(f"cannot read {path} ({error}): {AGAIN}") from error
    metadata = table_metadata(table)
    if not table.schema.equals(_SCHEMA) or any(column.null_count for column in table.columns):
        raise CacheError(f"{path} has other columns than {', '.join(_SCHEMA.names)}, or empty cells: {AGAIN}")
    captions = Captions(table.to_pandas(ignore_metadata=True), callers(metadata))
    objection = identity.objection(metadata, path.relative_to(folder).as_posix()) if identity else ""
    if not objection and metadata.get(CONTENT) != _content(captions, metadata):
        objection = "it changed since it was written (sha256 differs)"
    if objection:
        raise CacheError(f"{path} is not what belongs there: {objection}; {AGAIN}")
    return captions


def _content(captions: Captions, metadata: Mapping[str, str]) -> str:
    """SHA-256 of all that the file says."""
    texts = {key: text for key, text in metadata.items() if key not in (CONTENT, "pandas")}
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    digest.update(captions.sha256.encode())
    digest.update("\0".join(captions.table["edit"]).encode())
    return digest.hexdigest()


def write_labels(
    folder: Path, evaluator: str, of: LabelsOf, labels: LabelScores, identity: Identity, *, partial: bool = False
) -> None:
    """Replace the labels that one evaluator gave, whole or not at all. CacheError when they cannot be written."""
    tensors = {"sample_id": torch.tensor(labels.ids), "scores": torch.tensor(labels.scores)}
    write_tensor_file(folder, labels_path(folder, evaluator, of, partial=partial), tensors, labels.metadata, identity)


def read_labels(
    folder: Path, evaluator: str, of: LabelsOf, identity: Identity | None, captions: Captions, *, partial: bool = False
) -> LabelScores:
    """ScoreError when there are none, or they are damaged, another cache's, or of other captions."""
    path = labels_path(folder, evaluator, of, partial=partial)
    if not path.exists():
        pictures = "labels.images=true" if isinstance(of, str) else f"labels.steps=[{of}]"
        raise ScoreError(
            f"the cache {folder} has no labels of {evaluator!r} for "
            f"{'its images' if isinstance(of, str) else f'the previews at step {of}'}: run `probe-lab score` with "
            f"evaluators=[{evaluator}], labels.captions={captions.width - 1} and {pictures}"
        )
    try:
        tensors, metadata = load_tensors(str(path))
    except CacheError as error:
        raise ScoreError(f"{error}; {AGAIN}") from error
    objection = tensor_file_objection(tensors, metadata, path.relative_to(folder).as_posix(), identity)
    ids, scores = tensors.get("sample_id"), tensors.get("scores")
    if not objection and metadata.get(CAPTIONS) != captions.sha256:
        objection = "its scores are of other captions than those of labels/captions.parquet"
    if not objection and (
        ids is None
        or scores is None
        or (ids.dtype, scores.dtype) != (torch.int64, torch.float32)
        or scores.shape != (*ids.shape, captions.width)
    ):
        objection = f"it does not hold sample_id int64 [n] and scores float32 [n, {captions.width}]"
    if objection or ids is None or scores is None:
        raise ScoreError(f"{path} is not what belongs there: {objection}; {AGAIN}")
    return LabelScores(ids.numpy(), scores.numpy(), callers(metadata))
