"""What is wrong with the picture judges of a cache."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

from probe_lab.cache.identity import Identity
from probe_lab.cache.judge_files import AGAIN
from probe_lab.cache.layout import JUDGES, is_number
from probe_lab.cache.problems import Problem, problem
from probe_lab.cache.tensor_files import tensor_file_objection
from probe_lab.cache.tensors import load_tensors
from probe_lab.errors import CacheError


def judge_problems(folder: Path, identity: Identity | None, samples: int, wanted: Collection[int]) -> Iterator[Problem]:
    """``wanted``: those of the ``samples`` that have arrays. An ``identity`` of None is not compared."""
    for path in sorted((folder / JUDGES).glob("*/*")):
        is_ours = is_number(path.parent.name) and path.suffix in (".safetensors", ".partial")
        if not is_ours and not path.name.startswith("."):
            yield problem(folder, path, "is no file of a cache: move it elsewhere")
        elif path.suffix == ".safetensors":
            yield from _file_problems(folder, path, identity, samples, wanted)


def _file_problems(
    folder: Path, path: Path, identity: Identity | None, samples: int, wanted: Collection[int]
) -> Iterator[Problem]:
    try:
        tensors, metadata = load_tensors(str(path))
    except CacheError as error:
        yield problem(folder, path, str(error))
        return
    if objection := tensor_file_objection(tensors, metadata, path.relative_to(folder).as_posix(), identity):
        yield problem(folder, path, f"{objection}: {AGAIN}")
    elif is_number(path.stem):
        scores = tensors.get("scores")
        columns = len(json.loads(metadata.get("evaluators", "[]"))) * int(metadata.get("answers", "0"))
        if scores is None or scores.shape != (samples, columns):
            yield problem(folder, path, f"it does not hold scores [{samples}, {columns}] of its evaluators: {AGAIN}")
        elif not scores[sorted(wanted)].isfinite().all():
            yield problem(folder, path, f"samples of complete shards have no scores in it: {AGAIN}")
